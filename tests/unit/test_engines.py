"""What runs the network: all engines do the same, to all types of tiles, and as the plain network does."""

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

ENGINES = {
    "openvino-int8": lambda: OpenVINOEngine(dncnn.shipped(), threads=1, precision="int8"),
    "openvino-bfloat16": lambda: OpenVINOEngine(dncnn.shipped(), threads=1, precision="bfloat16"),
    "openvino-float32": lambda: OpenVINOEngine(dncnn.shipped(), threads=1, precision="float32"),
    "torch": lambda: TorchEngine(dncnn.shipped()),
    "torch-float32": lambda: TorchEngine(dncnn.shipped(), precision="float32"),
}
REFERENCE = "torch-float32"


@cache
def engine(name: str) -> Engine:
    return ENGINES[name]()


def clean(height: int = 60, width: int = 72) -> np.ndarray:
    """Return a picture with a slope, an edge and a fine pattern: float32 (H, W, 3), 0.1..0.9."""
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

    found, expected = (psnr(engine(one).denoise(tile, ones())[0]) for one in (name, REFERENCE))

    assert found > psnr(tile[0]) + 3
    # Such edges and patterns cost int8 most: on photos it is 0.02 dB.
    assert abs(found - expected) < (0.15 if "int8" in name else 0.01)


@int8_works
def test_the_layers_that_were_trained_for_int8_run_in_int8_and_no_others():
    weights, options = dncnn.shipped(), {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(_model(weights, np.dtype(np.uint8), weights.int8), "CPU", options)

    run_as = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [str(info["runtimePrecision"].value) for info in run_as if info["layerType"].value == "Convolution"]

    assert len(precisions) == dncnn.DEPTH
    assert sum(precision in ("u8", "i8") for precision in precisions) == len(weights.int8) > 0


def test_int8_is_what_is_taken_where_it_can_be_had_and_refused_where_it_cannot():
    taken = OpenVINOEngine(dncnn.shipped(), threads=1).name
    others = dncnn.Weights(dncnn.shipped().arrays)

    assert ("int8" in taken) == has_vnni()
    assert "int8" not in OpenVINOEngine(others, threads=1).name
    with pytest.raises(ValueError, match="int8 needs weights that were trained for it and a CPU with VNNI"):
        OpenVINOEngine(others, threads=1, precision="int8")


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
def test_what_the_cpu_says_of_itself_decides(text, expected, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)

    assert has_vnni(cpuinfo) == expected
    assert not has_vnni(tmp_path / "none")


@torch.inference_mode()
def test_the_reference_is_the_plain_network():
    network = DnCNN()
    network.load_state_dict({name: torch.tensor(value) for name, value in dncnn.shipped().arrays.items()})
    tile = torch.from_numpy(noisy())[None]

    expected = tile - network(tile.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    np.testing.assert_allclose(engine(REFERENCE).denoise(tile.numpy(), ones()), expected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        engine("openvino-float32").denoise(tile.numpy(), ones()), expected.numpy(), rtol=0, atol=1e-5
    )


@each_type
@each_engine
def test_shape_and_type_stay_and_the_tiles_given_are_not_written_to(name, dtype):
    tiles = as_type(np.stack([noisy(), noisy(seed=2)])[:, :33, :47], dtype)
    before = tiles.copy()

    for writeable in (True, False):
        tiles.flags.writeable = writeable
        found = engine(name).denoise(tiles, ones(2))
        assert (found.shape, found.dtype) == (tiles.shape, tiles.dtype)
        np.testing.assert_array_equal(tiles, before)


@each_type
@each_engine
def test_all_types_of_tiles_are_denoised_alike(name, dtype):
    step = {np.uint8: 1 / 255, np.uint16: 1 / 65_535, np.float32: 0}[dtype]
    tile = as_type(noisy()[None], dtype)

    found = engine(name).denoise(tile, ones()) * (np.float32(step) or 1)
    expected = engine(name).denoise(tile * (np.float32(step) or np.float32(1)), ones()).clip(0, 1)

    # In int8, a last bit that makes one activation round the other way makes others do so.
    rounding = 0.02 if "int8" in name else 1e-6
    np.testing.assert_allclose(found.clip(0, 1), expected, rtol=0, atol=step / 2 + rounding)


@each_type
@each_engine
def test_a_strength_of_0_changes_nothing_and_one_of_a_half_gives_the_mean(name, dtype):
    tile = as_type(noisy()[None], dtype)

    nothing, half, full = engine(name).denoise(np.repeat(tile, 3, axis=0), np.array([0, 0.5, 1], np.float32))

    np.testing.assert_array_equal(nothing, tile[0])
    if dtype == np.float32:
        np.testing.assert_allclose(half, (nothing + full) / 2, rtol=0, atol=1e-6)
    else:
        # What was clipped is not the mean.
        inside = (full > 0) & (full < np.iinfo(dtype).max)
        off = half.astype(float) - (nothing.astype(float) + full) / 2
        assert abs(off[inside]).max() <= 1


@each_engine
def test_tiles_of_a_batch_do_not_touch_each_other(name):
    tiles = np.stack([noisy(), np.zeros_like(clean()), noisy(50, seed=3)])

    together = engine(name).denoise(tiles, np.array([1, 1, 0.7], np.float32))
    alone = [
        engine(name).denoise(tile[None], np.array([strength], np.float32))[0]
        for tile, strength in zip(tiles, (1, 1, 0.7), strict=True)
    ]

    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-3)


@each_engine
def test_a_window_into_a_larger_picture_is_taken_as_the_pixels_that_it_shows(name):
    picture = as_type(noisy()[None], np.uint8)
    window = picture[:, 5:40, 10:50]

    np.testing.assert_array_equal(engine(name).denoise(window, ones()), engine(name).denoise(window.copy(), ones()))


def test_without_a_gpu_openvino_is_loaded_and_asking_for_the_gpu_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("This machine has a GPU.")

    assert load_engine(dncnn.shipped(), "auto", threads=1).name.startswith("OpenVINO")
    with pytest.raises(DeviceMissing, match=r"sees no GPU: .* or set the denoiser's device to cpu"):
        load_engine(dncnn.shipped(), "cuda", threads=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@each_type
def test_a_gpu_denoises_as_the_reference_does(dtype):
    on_gpu = load_engine(dncnn.shipped(), "cuda")
    tile = as_type(noisy()[None], dtype)
    white = {np.uint8: 255, np.uint16: 65_535, np.float32: 1}[dtype]

    found, expected = (psnr(one.denoise(tile, ones())[0] / white) for one in (on_gpu, engine(REFERENCE)))

    assert abs(found - expected) < 0.01


def test_without_pytorch_auto_means_openvino_and_the_gpu_names_the_extra(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module', name='torch')")
    code = """
from pixtools.denoising.dncnn import shipped
from pixtools.denoising.engine import load_engine
print(load_engine(shipped(), "auto", 1).name)
try:
    load_engine(shipped(), "cuda", 1)
except Exception as error:
    print(repr(error))
"""

    first, second = run(code, tmp_path).splitlines()

    assert first.startswith("OpenVINO")
    assert second.startswith("DeviceMissing")
    assert "pip install 'pixtools[gpu]'" in second


def test_openvino_sends_nothing_and_writes_nothing_to_the_home_folder(tmp_path):
    code = """
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen"):
        print(event, arguments)
sys.addaudithook(watch)
import numpy as np
from pixtools.denoising.dncnn import shipped
from pixtools.denoising.engine import load_engine
load_engine(shipped(), "cpu", 1).denoise(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, np.float32))
"""
    env = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}

    assert run(code, tmp_path, env | {"HOME": str(tmp_path)}) == ""
    assert list(tmp_path.iterdir()) == []


def run(code: str, folder: Path, env: dict[str, str] | None = None) -> str:
    """Run code in a new Python that looks for modules in `folder` before it does elsewhere."""
    return subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"],
        check=True,
        capture_output=True,
        text=True,
        env=env,
    ).stdout
