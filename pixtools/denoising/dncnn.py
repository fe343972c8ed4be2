"""DnCNN, the network that denoises: the shapes of its weights, and the formats of weights files.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 26(7), 2017. This is the blind colour variant as its authors publish
it. "Blind" means that the network is not told how strong the noise is. Batch normalisation is folded into the
convolutions. The network has 20 convolutions of 3 × 3, with a ReLU after each convolution except the last. The input is
a picture with values of 0..1, and the output is the noise of the picture. A megapixel takes 1,334 GFLOP.

This module needs neither PyTorch nor OpenVINO. `torch_network.py` builds the network in PyTorch, and
`openvino_engine.py` builds it in OpenVINO.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixtools.denoising.weights import SHIPPED, SHIPPED_SHA256, WHITE, WHITE_SHA256
from pixtools.errors import WeightsUnusable

CHANNELS, WIDTH, DEPTH = 3, 64, 20
"""Channels of a picture, channels between two layers, and number of layers."""

HALO = DEPTH
"""A pixel of the output depends on input pixels up to this distance, in pixels. Each of the 20 layers adds 1."""

INT8 = "int8"
"""Key in the metadata of a safetensors file. Its value lists the layers that were trained for int8, such as "1 3 4"."""

ACTIVATION_STEPS, KERNEL_STEPS = 255, 127
"""How finely an int8 layer rounds: the number of steps for inputs, from 0 to 1, and for kernels, on each side of 0."""

_MAX_ERRORS_NAMED = 4  # in the message about a file that has many errors


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a trained network."""

    arrays: dict[str, NDArray[np.float32]]
    """Arrays with the names and shapes of the published PyTorch checkpoints. The numbers in the names also count the
    ReLUs between the layers: `model.0.weight` (64, 3, 3, 3), `model.0.bias` (64,), `model.2.weight` (64, 64, 3, 3), …,
    `model.38.weight` (3, 64, 3, 3)."""

    int8: tuple[int, ...] = ()
    """The numbers, from 1 to 19, of the layers that were trained for int8. An engine may clip the inputs of these
    layers to 0..1, and round them to ACTIVATION_STEPS equal steps. It may round their kernels to KERNEL_STEPS equal
    steps on each side of 0. For each output channel, the last step is the largest absolute value in the kernels of the
    channel. An engine without int8 does not clip or round, and its result is at least as good."""


def array_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of the weights by its name, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in enumerate(pairwise([CHANNELS, *[WIDTH] * (DEPTH - 1), CHANNELS])):
        shapes[f"model.{2 * layer}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"model.{2 * layer}.bias"] = (outputs,)
    return shapes


def load_shipped() -> Weights:
    """Load the shipped weights for photos."""
    return _load(SHIPPED, SHIPPED_SHA256)


def load_white() -> Weights:
    """Load the shipped weights for white noise."""
    return _load(WHITE, WHITE_SHA256)


def _load(name: str, sha256: str) -> Weights:
    return parse((resources.files("pixtools.denoising") / "weights" / name).read_bytes(), name, sha256)


def parse(data: bytes, name: str, sha256: str | None = None) -> Weights:
    """Parse weights from the bytes of a file. The ending of `name` decides the format.

    - `.safetensors`: arrays with the names in `Weights`; only this format can list layers that were trained for int8
    - `.pt` or `.pth`: a PyTorch state dict with the same names
    - `.mat`: the MatConvNet file of DnCNN's authors

    `sha256` is the expected digest of `data`, in hexadecimal digits. Raises WeightsUnusable, with the name of the file,
    if the digest differs or if `data` are not float32 weights of this network.
    """
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.strip().lower():
        raise WeightsUnusable(
            f"{name} has the SHA-256 {digest}, not {sha256} as expected: fetch the file again, or correct the digest"
        )
    readers = {".safetensors": _read_safetensors, ".pt": _read_state_dict, ".pth": _read_state_dict, ".mat": _read_mat}
    read = readers.get(PurePosixPath(name).suffix.lower())
    if read is None:
        raise WeightsUnusable(f"{name} has an unknown format: its name must end in {', '.join(readers)}")
    try:
        arrays = read(data)
    except ModuleNotFoundError as error:
        extra = {"torch": "gpu", "h5py": "train"}.get(error.name or "")
        if extra is None:
            raise
        raise WeightsUnusable(
            f"{name} cannot be read without {error.name}: pip install 'pixtools[{extra}]', or use a .safetensors file"
        ) from None
    except Exception as error:  # (each library raises errors of many classes for a damaged file)
        raise WeightsUnusable(
            f"{name} is damaged, or its ending is not the ending of its format ({type(error).__name__}: {error}): "
            "fetch the file again, or correct the ending"
        ) from error
    return Weights(_checked(arrays, name), _int8_layers(data, name) if read is _read_safetensors else ())


def _read_safetensors(data: bytes) -> Mapping[str, Any]:
    import safetensors.numpy  # noqa: PLC0415

    arrays: Mapping[str, Any] = safetensors.numpy.load(data)
    return arrays


def _int8_layers(data: bytes, name: str) -> tuple[int, ...]:
    """Return the layers that the header of a safetensors file lists for int8. `data` must be valid."""
    # The safetensors library can read metadata only from a path, but `data` may come from S3.
    length = int.from_bytes(data[:8], "little")
    listed = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get(INT8, "")
    numbers = {str(layer): layer for layer in range(1, DEPTH)}
    layers = tuple(numbers.get(word, 0) for word in listed.split())
    if list(layers) != sorted({*layers} - {0}):
        raise WeightsUnusable(
            f"{name} lists its int8 layers as {listed[:100]!r}: list numbers from 1 to {DEPTH - 1} in ascending order"
        )
    return layers


def _read_state_dict(data: bytes) -> Mapping[str, Any]:
    import torch  # noqa: PLC0415 (an optional extra)

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for key in ("state_dict", "params"):
        state = state.get(key, state)
    # PyTorch's DataParallel adds the prefix `module.` to all names.
    return {name.removeprefix("module."): value.detach().numpy() for name, value in state.items()}


def _read_mat(data: bytes) -> Mapping[str, Any]:
    import h5py  # noqa: PLC0415 (an optional extra)

    arrays = {}
    with h5py.File(io.BytesIO(data)) as file:
        for number, layer in enumerate(file["net"]["layers"][:].flat):
            if "weights" in file[layer]:
                kernels, bias = (file[array][:] for array in file[layer]["weights"][:].flat)
                # MATLAB stores arrays column by column, so h5py returns the axes in reverse order: (out, in, W, H).
                arrays[f"model.{number}.weight"] = np.ascontiguousarray(kernels.swapaxes(2, 3))
                arrays[f"model.{number}.bias"] = bias.reshape(-1)
    return arrays


def _checked(arrays: Mapping[str, Any], name: str) -> dict[str, NDArray[np.float32]]:
    """Return the arrays in the order of the layers. Raises WeightsUnusable if they do not fit the network."""
    expected = array_shapes()
    errors = [f"{array} is missing" for array in expected if array not in arrays]
    errors += [f"{array} is unknown" for array in arrays if array not in expected]
    for array, shape in expected.items():
        if array not in arrays:
            continue
        value = arrays[array]
        if value.dtype != np.float32:
            errors.append(f"{array} is {value.dtype}, not float32")
        if value.shape != shape:
            errors.append(f"{array} has the shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            errors.append(f"{array} has numbers that are not finite")
    if errors:
        more = f", and {len(errors) - _MAX_ERRORS_NAMED} more errors" if len(errors) > _MAX_ERRORS_NAMED else ""
        raise WeightsUnusable(
            f"{name} does not hold the weights of the blind colour DnCNN ({DEPTH} layers without batch normalisation): "
            f"{', '.join(errors[:_MAX_ERRORS_NAMED])}{more}: use a file of that network, or the shipped weights"
        )
    return {array: arrays[array] for array in expected}
