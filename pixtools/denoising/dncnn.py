"""DnCNN, the network that denoises: its shape and its weights, without the libraries that run it.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 26(7), 2017: the blind colour variant, as its authors publish it, with
batch normalisation folded into the convolutions. It is 20 convolutions of 3 × 3, with ReLU between them, and predicts
the noise of a picture in 0..1: 1,334 GFLOP a megapixel.
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

from pixtools.denoising.weights import SHIPPED, SHIPPED_SHA256
from pixtools.errors import WeightsUnusable

CHANNELS, WIDTH, DEPTH = 3, 64, 20
HALO = DEPTH
"""Pixels to each side on which a pixel of the output depends."""

FAULTS = 4  # are named of a file that has many

INT8 = "int8"
"""In the metadata of a safetensors file: the layers that were trained for int8, as "1 3 4"."""
ACTIVATION_STEPS, KERNEL_STEPS = 255, 127


@dataclass(frozen=True, eq=False)
class Weights:
    """What the network has learned."""

    arrays: dict[str, NDArray[np.float32]]
    """By the names and shapes of the published PyTorch checkpoints, in which a ReLU stands between each two layers:
    `model.0.weight` (64, 3, 3, 3), `model.0.bias` (64,), `model.2.weight` (64, 64, 3, 3), …, `model.38.weight`
    (3, 64, 3, 3)."""

    int8: tuple[int, ...] = ()
    """The layers, of 1..19, that were trained for int8: what they read may be clipped to 0..1 and rounded to
    ACTIVATION_STEPS even steps, and their kernels to KERNEL_STEPS to each side of 0, up to the largest of those that
    make the same channel. What does neither loses nothing."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of the weights, by its name, in the order of the layers."""
    found: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in enumerate(pairwise([CHANNELS, *[WIDTH] * (DEPTH - 1), CHANNELS])):
        found[f"model.{2 * layer}.weight"] = (outputs, inputs, 3, 3)
        found[f"model.{2 * layer}.bias"] = (outputs,)
    return found


def shipped() -> Weights:
    """Read the weights that come with PixTools."""
    return load((resources.files("pixtools.denoising") / "weights" / SHIPPED).read_bytes(), SHIPPED, SHIPPED_SHA256)


def load(data: bytes, name: str, sha256: str | None = None) -> Weights:
    """Read weights from the bytes of a file, in the format that the end of its name says.

    `.safetensors`, which alone may say that layers were trained for int8, or a state dict of PyTorch (`.pt`, `.pth`),
    both with the names of `Weights`; or the MatConvNet file of the authors (`.mat`). `sha256` are the hexadecimal
    digits of the digest that the bytes should have. Raises WeightsUnusable, naming the file, if they are not the
    float32 weights of this network.
    """
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise WeightsUnusable(
            f"{name} has the SHA-256 {found}, not {sha256} as expected: fetch the file again, or correct the digest"
        )
    readers = {".safetensors": _safetensors, ".pt": _state_dict, ".pth": _state_dict, ".mat": _matconvnet}
    read = readers.get(PurePosixPath(name).suffix.lower())
    if read is None:
        raise WeightsUnusable(f"{name} is of no known format: its name must end in {', '.join(readers)}")
    try:
        weights = read(data)
    except ModuleNotFoundError as error:
        extra = {"torch": "gpu", "h5py": "train"}.get(error.name or "")
        if extra is None:
            raise
        raise WeightsUnusable(
            f"{name} cannot be read without {error.name}: pip install 'pixtools[{extra}]', or use .safetensors"
        ) from None
    except Exception as error:  # (each library raises what it likes at a file that is not its own)
        raise WeightsUnusable(
            f"{name} cannot be read as the format that its name says ({type(error).__name__}: {error}): "
            "fetch the file again, or give it the name of its format"
        ) from error
    return Weights(_checked(weights, name), _int8_layers(data, name) if read is _safetensors else ())


def _safetensors(data: bytes) -> Mapping[str, Any]:
    import safetensors.numpy  # noqa: PLC0415

    weights: Mapping[str, Any] = safetensors.numpy.load(data)
    return weights


def _int8_layers(data: bytes, name: str) -> tuple[int, ...]:
    """Return what a safetensors file, read already, says in its header: its library reads that from paths alone."""
    length = int.from_bytes(data[:8], "little")
    said = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get(INT8, "")
    known = {str(layer): layer for layer in range(1, DEPTH)}
    layers = tuple(known.get(each, 0) for each in said.split())
    if list(layers) != sorted({*layers} - {0}):
        raise WeightsUnusable(
            f"{name} says {said[:100]!r} of its layers in int8: give numbers of 1 to {DEPTH - 1}, in order"
        )
    return layers


def _state_dict(data: bytes) -> Mapping[str, Any]:
    import torch  # noqa: PLC0415 (an optional extra)

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for key in ("state_dict", "params"):
        state = state.get(key, state)
    # The prefix is what DataParallel leaves.
    return {name.removeprefix("module."): value.detach().numpy() for name, value in state.items()}


def _matconvnet(data: bytes) -> Mapping[str, Any]:
    import h5py  # noqa: PLC0415 (an optional extra)

    weights = {}
    with h5py.File(io.BytesIO(data)) as file:
        for number, layer in enumerate(file["net"]["layers"][:].flat):
            if "weights" in file[layer]:
                kernels, bias = (file[array][:] for array in file[layer]["weights"][:].flat)
                # MATLAB keeps columns together: what h5py sees is (out, in, W, H).
                weights[f"model.{number}.weight"] = np.ascontiguousarray(kernels.swapaxes(2, 3))
                weights[f"model.{number}.bias"] = bias.reshape(-1)
    return weights


def _checked(weights: Mapping[str, Any], name: str) -> dict[str, NDArray[np.float32]]:
    """Return the arrays in the order of the layers, if they are what the network has; says all that is wrong."""
    expected = shapes()
    wrong = [f"{array} is missing" for array in expected if array not in weights]
    wrong += [f"{array} is unknown" for array in weights if array not in expected]
    for array, shape in expected.items():
        if array not in weights:
            continue
        value = weights[array]
        if value.dtype != np.float32:
            wrong.append(f"{array} is {value.dtype}, not float32")
        if value.shape != shape:
            wrong.append(f"{array} has the shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            wrong.append(f"{array} has numbers that are not finite")
    if wrong:
        more = f", and {len(wrong) - FAULTS} more such faults" if len(wrong) > FAULTS else ""
        raise WeightsUnusable(
            f"{name} does not hold the weights of the blind colour DnCNN ({DEPTH} layers without batch "
            f"normalisation): {', '.join(wrong[:FAULTS])}{more}: use a file of that network, or the one that is shipped"
        )
    return {array: weights[array] for array in expected}
