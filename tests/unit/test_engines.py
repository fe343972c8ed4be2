"""All engines give nearly the same results as the plain network, for tiles of every data type."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from pixtools.denoising import dncnn
from pixtools.denoising.engine import Engine, Tiles, load_engine
from pixtools.denoising.openvino_engine import OpenVINOEngine, _model, has_vnni
from pixtools.denoising.torch_engine import TorchEngine
from pixtools.denoising.torch_network import DnCNN
from pixtools.errors import DeviceMissing

pytestmark = pytest.mark.heavy

ENGINES = {
    "openvino-int8": lambda: OpenVINOEngine(dncnn.load_shipped(), threads=1, precision="int8"),
    "openvino-bfloat16": lambda: OpenVINOEngine(dncnn.load_shipped(), threads=1, precision="bfloat16"),
    "openvino-float32": lambda: OpenVINOEngine(dncnn.load_shipped(), threads=1, precision="float32"),
    "torch": lambda: TorchEngine(dncnn.load_shipped()),
    "torch-float32": lambda: TorchEngine(dncnn.load_shipped(), precision="float32"),
}
REFERENCE = "torch-float32"


@cache
def engine(name: str) -> Engine:
    return ENGINES[name]()


def clean(height: int = 60, width: int = 72) -> np.ndarray:
    """Return a clean picture as float32 (H, W, 3) from 0.1 to 0.9. It has a gradient, an edge and a fine pattern."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [x / width, (x + y > (height + width) / 2).astype(np.float32), 0.5 + 0.5 * np.sin(y / 3)]
    return np.stack(planes, axis=-1) * np.float32(0.8) + np.float32(0.1)


def noisy(sigma: float = 25, seed: int = 1) -> np.ndarray:
    picture = clean()
    return picture + np.random.default_rng(seed).normal(0, sigma / 255, picture.shape).astype(np.float32)


def psnr(picture: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((picture.clip(0, 1) - clean()) ** 2)))


def as_type(picture: np.ndarray, dtype: type) -> Tiles:
    white = {np.uint8: 255, np.uint16: 65_535}.get(dtype)
    return picture.astype(dtype) if white is None else (picture.clip(0, 1) * white).round().astype(dtype)


def ones(count: int = 1) -> np.ndarray:
    return np.ones(count, np.float32)


int8_works = pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI")
each_engine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[int8_works] * ("int8" in name)) for name in ENGINES]
)
each_type = pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])


@pytest.mark.parametrize("sigma", [15, 25, 50])
@each_engine
def test_an_engine_denoises_as_well_as_the_reference(name, sigma):
    tile = noisy(sigma)[None]

    actual, expected = (psnr(engine(one).denoise(tile, ones())[0]) for one in (name, REFERENCE))

    assert actual > psnr(tile[0]) + 3
    # For int8, these edges and patterns are the worst case. On photos, int8 loses only 0.02 dB.
    assert abs(actual - expected) < (0.15 if "int8" in name else 0.01)


@int8_works
def test_only_the_layers_that_were_trained_for_int8_run_in_int8():
    weights, options = dncnn.load_shipped(), {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(_model(weights, np.dtype(np.uint8), weights.int8), "CPU", options)

    run_as = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [str(info["runtimePrecision"].value) for info in run_as if info["layerType"].value == "Convolution"]

    assert len(precisions) == dncnn.DEPTH
    assert sum(precision in ("u8", "i8") for precision in precisions) == len(weights.int8) > 0


def test_int8_is_the_default_if_possible_and_is_refused_if_not():
    default = OpenVINOEngine(dncnn.load_shipped(), threads=1).name
    without_int8 = dncnn.Weights(dncnn.load_shipped().arrays)

    assert ("int8" in default) == has_vnni()
    assert "int8" not in OpenVINOEngine(without_int8, threads=1).name
    with pytest.raises(ValueError, match="int8 needs a CPU with VNNI, and weights that were trained for int8"):
        OpenVINOEngine(without_int8, threads=1, precision="int8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags : avx_vnni", True),
        ("flags : fpu avx2 avx512_vnnix", False),
        ("model name : avx_vnni", False),
        ("Features : asimddp i8mm", False),
    ],
)
def test_vnni_is_read_from_the_flags_of_the_cpu(text, expected, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)

    assert has_vnni(cpuinfo) == expected
    assert not has_vnni(tmp_path / "none")


@torch.inference_mode()
def test_the_reference_is_the_plain_network():
    network = DnCNN()
    network.load_state_dict({name: torch.tensor(value) for name, value in dncnn.load_shipped().arrays.items()})
    tile = torch.from_numpy(noisy())[None]

    expected = tile - network(tile.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    np.testing.assert_allclose(engine(REFERENCE).denoise(tile.numpy(), ones()), expected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        engine("openvino-float32").denoise(tile.numpy(), ones()), expected.numpy(), rtol=0, atol=1e-5
    )


@each_type
@each_engine
def test_an_engine_keeps_shape_and_type_and_does_not_modify_its_input(name, dtype):
    tiles = as_type(np.stack([noisy(), noisy(seed=2)])[:, :33, :47], dtype)
    before = tiles.copy()

    for writeable in (True, False):
        tiles.flags.writeable = writeable
        actual = engine(name).denoise(tiles, ones(2))
        assert (actual.shape, actual.dtype) == (tiles.shape, tiles.dtype)
        np.testing.assert_array_equal(tiles, before)


@each_type
@each_engine
def test_all_types_of_tiles_have_the_same_result(name, dtype):
    step = {np.uint8: 1 / 255, np.uint16: 1 / 65_535, np.float32: 0}[dtype]
    tile = as_type(noisy()[None], dtype)

    actual = engine(name).denoise(tile, ones()) * (np.float32(step) or 1)
    expected = engine(name).denoise(tile * (np.float32(step) or np.float32(1)), ones()).clip(0, 1)

    # In int8, a difference in the last bit can change the rounding of an activation, and then of later activations.
    rounding = 0.02 if "int8" in name else 1e-6
    np.testing.assert_allclose(actual.clip(0, 1), expected, rtol=0, atol=step / 2 + rounding)


@each_type
@each_engine
def test_a_strength_of_0_changes_nothing_and_one_half_gives_the_mean(name, dtype):
    tile = as_type(noisy()[None], dtype)

    nothing, half, full = engine(name).denoise(np.repeat(tile, 3, axis=0), np.array([0, 0.5, 1], np.float32))

    np.testing.assert_array_equal(nothing, tile[0])
    if dtype == np.float32:
        np.testing.assert_allclose(half, (nothing + full) / 2, rtol=0, atol=1e-6)
    else:
        # A clipped value is not the mean, so the comparison leaves out clipped values.
        inside = (full > 0) & (full < np.iinfo(dtype).max)
        difference = half.astype(float) - (nothing.astype(float) + full) / 2
        assert abs(difference[inside]).max() <= 1


@each_engine
def test_tiles_of_a_batch_do_not_influence_each_other(name):
    tiles = np.stack([noisy(), np.zeros_like(clean()), noisy(50, seed=3)])

    together = engine(name).denoise(tiles, np.array([1, 1, 0.7], np.float32))
    alone = [
        engine(name).denoise(tile[None], np.array([strength], np.float32))[0]
        for tile, strength in zip(tiles, (1, 1, 0.7), strict=True)
    ]

    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-3)


@each_engine
def test_a_view_into_a_larger_array_has_the_same_result_as_its_copy(name):
    picture = as_type(noisy()[None], np.uint8)
    window = picture[:, 5:40, 10:50]

    np.testing.assert_array_equal(engine(name).denoise(window, ones()), engine(name).denoise(window.copy(), ones()))


def test_without_a_gpu_auto_loads_openvino_and_cuda_names_the_remedy():
    if torch.cuda.is_available():
        pytest.skip("This machine has a GPU.")

    assert load_engine(dncnn.load_shipped(), "auto", threads=1).name.startswith("OpenVINO")
    with pytest.raises(DeviceMissing, match=r"sees no GPU: .* or set the denoiser's device to cpu"):
        load_engine(dncnn.load_shipped(), "cuda", threads=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@each_type
def test_a_gpu_has_the_same_result_as_the_reference(dtype):
    on_gpu = load_engine(dncnn.load_shipped(), "cuda")
    tile = as_type(noisy()[None], dtype)
    white = {np.uint8: 255, np.uint16: 65_535, np.float32: 1}[dtype]

    actual, expected = (psnr(one.denoise(tile, ones())[0] / white) for one in (on_gpu, engine(REFERENCE)))

    assert abs(actual - expected) < 0.01


def test_without_pytorch_auto_loads_openvino_and_cuda_names_the_extra(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module', name='torch')")
    code = """
from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import load_engine
print(load_engine(load_shipped(), "auto", 1).name)
try:
    load_engine(load_shipped(), "cuda", 1)
except Exception as error:
    print(repr(error))
"""

    first, second = run(code, tmp_path).splitlines()

    assert first.startswith("OpenVINO")
    assert second.startswith("DeviceMissing")
    assert "pip install 'pixtools[gpu]'" in second


def test_openvino_sends_nothing_and_does_not_write_to_the_home_folder(tmp_path):
    code = """
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen"):
        print(event, arguments)
sys.addaudithook(watch)
import numpy as np
from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import load_engine
load_engine(load_shipped(), "cpu", 1).denoise(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, np.float32))
"""
    env = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}

    assert run(code, tmp_path, env | {"HOME": str(tmp_path)}) == ""
    assert list(tmp_path.iterdir()) == []


def run(code: str, folder: Path, env: dict[str, str] | None = None) -> str:
    """Run code in a new Python process that looks for modules in `folder` first. Return the output of the code."""
    return subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"],
        check=True,
        capture_output=True,
        text=True,
        env=env,
    ).stdout
