"""Weight files of every format are read into the same arrays. Files without valid weights are refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from pixtools.denoising import dncnn
from pixtools.errors import WeightsUnusable


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in dncnn.array_shapes().items()}


def state_dict(state: object) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def tensors(weights: dict[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: torch.from_numpy(value) for name, value in weights.items()}


def matconvnet(weights: dict[str, np.ndarray]) -> bytes:
    """Return a MAT file of version 7.3, as MATLAB writes it.

    The file has an HDF5 reference to each layer. A layer that is a ReLU has no arrays. The axes of all arrays are in
    reverse order, because MATLAB stores them in column-major order.
    """
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        layers = []
        for number in range(2 * dncnn.DEPTH - 1):
            layer = file.create_group(f"#refs#/layer{number}")
            layers.append([layer.ref])
            if number % 2 == 0:
                kernels, bias = weights[f"model.{number}.weight"], weights[f"model.{number}.bias"]
                arrays = [kernels.transpose(2, 3, 1, 0).T, bias[None]]
                refs = [[file.create_dataset(f"#refs#/{number}-{n}", data=one).ref] for n, one in enumerate(arrays)]
                layer.create_dataset("weights", data=refs, dtype=h5py.ref_dtype)
        file.create_group("net").create_dataset("layers", data=layers, dtype=h5py.ref_dtype)
    return out.getvalue()


def with_header(data: bytes, changes: dict[str, object]) -> bytes:
    """Return a safetensors file with `changes` in its header."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]) | changes).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


FILES = {
    "a.safetensors": save,
    "a.pt": lambda weights: state_dict(tensors(weights)),
    "A.PTH": lambda weights: state_dict({"params": tensors(weights)}),
    "module.pth": lambda weights: state_dict({"state_dict": tensors(weights, "module.")}),
    "a.mat": matconvnet,
}


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_the_same_arrays_in_the_order_of_the_layers(name, weights):
    parsed = dncnn.parse(FILES[name](weights), name)

    assert parsed.int8 == ()
    assert list(parsed.arrays) == list(dncnn.array_shapes())
    for array, value in parsed.arrays.items():
        np.testing.assert_array_equal(value, weights[array], strict=True)


def test_a_safetensors_file_lists_the_layers_that_were_trained_for_int8(weights):
    assert dncnn.parse(save(weights, {dncnn.INT8: "1 3 19"}), "a.safetensors").int8 == (1, 3, 19)
    assert dncnn.parse(save(weights, {"format": "pt"}), "a.safetensors").int8 == ()
    assert dncnn.parse(with_header(save(weights), {"__metadata__": None}), "a.safetensors").int8 == ()


@pytest.mark.parametrize("listed", ["0 1", "20", "one", "-1", "1,2", "1 1", "3 1", "\u0661", "9" * 5000])
def test_an_invalid_list_of_int8_layers_is_refused(listed, weights):
    with pytest.raises(
        WeightsUnusable, match=rf"a.safetensors lists its int8 layers as '{listed[:100]}': list numbers"
    ):
        dncnn.parse(save(weights, {dncnn.INT8: listed}), "a.safetensors")


@pytest.mark.parametrize("load", [dncnn.load_shipped, dncnn.load_white])
def test_the_shipped_weights_have_their_digest_and_shapes(load):
    assert {name: value.shape for name, value in load().arrays.items()} == dncnn.array_shapes()
    assert load().int8


def test_a_digest_is_compared_in_any_case(weights):
    data = save(weights)

    dncnn.parse(data, "a.safetensors", hashlib.sha256(data).hexdigest().upper())
    with pytest.raises(WeightsUnusable, match=r"a.safetensors has the SHA-256 .*, not 00ff as expected: fetch"):
        dncnn.parse(data, "a.safetensors", "00ff")


@pytest.mark.parametrize("name", ["a.onnx", "weights", "a.safetensors.zip"])
def test_a_name_with_an_unknown_ending_is_refused(name):
    with pytest.raises(WeightsUnusable, match=r"its name must end in \.safetensors, \.pt, \.pth, \.mat"):
        dncnn.parse(b"", name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.mat"])
@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(1000)], ids=["empty", "page", "zeros"])
def test_a_file_that_is_not_in_its_format_is_refused(name, data):
    with pytest.raises(WeightsUnusable, match=rf"{name} is damaged, or its ending is not the ending of its format"):
        dncnn.parse(data, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_early_is_refused(name, weights):
    with pytest.raises(WeightsUnusable, match=name):
        dncnn.parse(FILES[name](weights)[:-5000], name)


class Danger:
    """An object that runs code if it is unpickled without protection."""

    def __reduce__(self):
        return print, ("a command was run",)


@pytest.mark.parametrize("state", [{"a": Danger()}, [1, 2], {"epoch": 3}], ids=["code", "list", "number"])
def test_a_pytorch_file_without_tensors_is_refused_and_runs_no_code(state, capsys):
    with pytest.raises(WeightsUnusable, match=r"a\.pt"):
        dncnn.parse(state_dict(state), "a.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model.38.bias": None}, r"model\.38\.bias is missing"),
        ({"model.1.weight": np.ones(64, np.float32)}, r"model\.1\.weight is unknown"),
        ({"model.0.bias": np.ones(64, np.float16)}, r"model\.0\.bias is float16, not float32"),
        ({"model.0.bias": np.ones(32, np.float32)}, r"model\.0\.bias has the shape \(32,\), not \(64,\)"),
        ({"model.0.bias": np.full(64, np.nan, np.float32)}, r"model\.0\.bias has numbers that are not finite"),
        ({f"model.{n}.bias": None for n in range(0, 20, 2)}, r"model\.6\.bias is missing, and 6 more errors"),
    ],
)
def test_arrays_that_do_not_fit_the_network_are_refused(changes, error, weights):
    changed = {name: value for name, value in (weights | changes).items() if value is not None}

    with pytest.raises(
        WeightsUnusable, match=rf"^a\.safetensors does not hold .*{error}.*: use a file of that network"
    ):
        dncnn.parse(save(changed), "a.safetensors")


@pytest.mark.parametrize(("name", "library", "extra"), [("a.pt", "torch", "gpu"), ("a.mat", "h5py", "train")])
def test_the_error_names_the_extra_if_the_library_of_a_format_is_missing(name, library, extra, tmp_path):
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('No module', name={library!r})")
    code = (
        "from pixtools.denoising.dncnn import parse\n"
        f"try:\n  parse(b'', {name!r})\nexcept Exception as error: print(repr(error))"
    )

    output = run(code, tmp_path)

    assert output.startswith("WeightsUnusable")
    assert f"{name} cannot be read without {library}: pip install 'pixtools[{extra}]'" in output


def test_loading_the_shipped_weights_imports_no_large_library(tmp_path):
    code = (
        "from pixtools.denoising.dncnn import load_shipped\n"
        "load_shipped()\n"
        "print({'torch', 'h5py', 'openvino'} & {*sys.modules})"
    )

    assert run(code, tmp_path) == "set()\n"


def run(code: str, folder: Path) -> str:
    """Run code in a new Python process that looks for modules in `folder` first. Return the output of the code."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
