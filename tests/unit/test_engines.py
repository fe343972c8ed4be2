"""All engines give nearly the same results as the plain network, for tiles of every data type."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import psutil
import pytest
import torch
from denoisers import random_weights

from pixtools.denoising import dncnn
from pixtools.denoising.engine import BLOCK, EFFORTS, LUMA, SCALES, Blend, Engine, Tiles, load_engine
from pixtools.denoising.openvino_engine import OpenVINOEngine, _model, best_precision, has_vnni
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


def denoised(name: str, tiles: Tiles, *blends: Blend) -> Tiles:
    """Denoise tiles with an engine. Without `blends`, all noise is removed."""
    return engine(name).denoise(tiles, rows(*blends or [Blend()] * len(tiles))).tiles


def rows(*blends: Blend) -> np.ndarray:
    return np.array([blend.as_row() for blend in blends], np.float32)


int8_works = pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI")
each_engine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[int8_works] * ("int8" in name)) for name in ENGINES]
)
each_type = pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])


@pytest.mark.parametrize("sigma", [15, 25, 50])
@each_engine
def test_an_engine_denoises_as_well_as_the_reference(name, sigma):
    tile = noisy(sigma)[None]

    actual, expected = (psnr(denoised(one, tile)[0]) for one in (name, REFERENCE))

    assert actual > psnr(tile[0]) + 3
    # int8 loses most on edges and patterns such as those of this tile. On the photos of CBSD68, int8 loses at most
    # 0.01 dB.
    assert abs(actual - expected) < (0.15 if "int8" in name else 0.01)


@int8_works
def test_only_the_layers_that_were_trained_for_int8_run_in_int8():
    weights, options = dncnn.load_shipped(), {"INFERENCE_PRECISION_HINT": "f32"}
    model = _model(weights, np.dtype(np.uint8), weights.int8, keeps_grain=False)
    compiled = openvino.Core().compile_model(model, "CPU", options)

    run_as = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [str(info["runtimePrecision"].value) for info in run_as if info["layerType"].value == "Convolution"]

    assert len(precisions) == dncnn.DEPTH
    assert sum(precision in ("u8", "i8") for precision in precisions) == len(weights.int8) > 0


@pytest.mark.parametrize(
    ("has_int8", "has_bfloat16", "normal", "fast"),
    [
        (True, True, "bfloat16", "int8"),
        (True, False, "int8", "int8"),
        (False, True, "bfloat16", "bfloat16"),
        (False, False, "float32", "float32"),
    ],
)
def test_the_effort_and_the_cpu_select_the_precision(has_int8, has_bfloat16, normal, fast):
    assert best_precision("normal", has_int8=has_int8, has_bfloat16=has_bfloat16) == normal
    assert best_precision("fast", has_int8=has_int8, has_bfloat16=has_bfloat16) == fast


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_engine_runs_in_the_best_precision_for_its_effort(effort):
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    expected = best_precision(effort, has_int8=has_vnni(), has_bfloat16=has_bfloat16)

    name = load_engine(dncnn.load_shipped(), "cpu", threads=1, effort=effort).name

    assert ("int8" in name) == (expected == "int8")
    assert ("bfloat16" in name) == has_bfloat16


def test_int8_is_not_used_with_weights_that_were_not_trained_for_it():
    without_int8 = dncnn.Weights(dncnn.load_shipped().arrays)

    assert "int8" not in load_engine(without_int8, "cpu", threads=1, effort="fast").name
    with pytest.raises(ValueError, match="int8 needs a CPU with VNNI, and weights that were trained for int8"):
        OpenVINOEngine(without_int8, threads=1, precision="int8")


@pytest.mark.parametrize("name", ["openvino-bfloat16", pytest.param("openvino-int8", marks=int8_works)])
def test_free_returns_memory_and_the_engine_still_denoises(name):
    tiles, process = np.resize(as_type(noisy(), np.uint8), (1, 512, 512, 3)), psutil.Process()
    fresh = ENGINES[name]()
    before = fresh.denoise(tiles, rows(Blend())).tiles
    used = process.memory_info().rss

    fresh.free()

    assert process.memory_info().rss < used - 50_000_000
    assert (fresh.denoise(tiles, rows(Blend())).tiles == before).all()


@pytest.mark.parametrize("name", ["openvino-bfloat16", pytest.param("openvino-int8", marks=int8_works)])
def test_only_the_last_model_of_an_engine_keeps_memory(name):
    tiles, process, fresh = np.resize(as_type(noisy(), np.uint8), (1, 512, 512, 3)), psutil.Process(), ENGINES[name]()
    fresh.denoise(tiles, rows(Blend()))
    used = process.memory_info().rss

    fresh.denoise(tiles.astype(np.uint16), rows(Blend(detail=1)))
    fresh.denoise(tiles, rows(Blend()))

    assert process.memory_info().rss < used + 85_000_000  # memory of both models would be more than 110 MB


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

    for name in (REFERENCE, "openvino-float32"):
        np.testing.assert_allclose(denoised(name, tile.numpy()), expected.numpy(), rtol=0, atol=1e-5)


@each_type
@each_engine
def test_an_engine_keeps_shape_and_type_and_does_not_modify_its_input(name, dtype):
    tiles = as_type(np.stack([noisy(), noisy(seed=2)])[:, :33, :47], dtype)
    before = tiles.copy()

    for writeable in (True, False):
        tiles.flags.writeable = writeable
        actual = denoised(name, tiles)
        assert (actual.shape, actual.dtype) == (tiles.shape, tiles.dtype)
        np.testing.assert_array_equal(tiles, before)


@each_type
@each_engine
def test_all_types_of_tiles_have_the_same_result(name, dtype):
    step = {np.uint8: 1 / 255, np.uint16: 1 / 65_535, np.float32: 0}[dtype]
    tile = as_type(noisy()[None], dtype)

    actual = denoised(name, tile) * (np.float32(step) or 1)
    expected = denoised(name, tile * (np.float32(step) or np.float32(1))).clip(0, 1)

    # In int8, a difference in the last bit can change the rounding of an activation, and then of later activations.
    rounding = 0.02 if "int8" in name else 1e-6
    np.testing.assert_allclose(actual.clip(0, 1), expected, rtol=0, atol=step / 2 + rounding)


@each_type
@each_engine
def test_a_strength_of_0_changes_nothing_and_one_half_gives_the_mean(name, dtype):
    tile = as_type(noisy()[None], dtype)

    nothing, half, full = denoised(name, np.repeat(tile, 3, axis=0), *(Blend(part, part) for part in (0, 0.5, 1)))

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

    blends = (Blend(), Blend(), Blend(0.7, 0.5, 0.4))

    together = denoised(name, tiles, *blends)
    alone = [denoised(name, tile[None], blend)[0] for tile, blend in zip(tiles, blends, strict=True)]

    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-3)


@each_engine
def test_a_view_into_a_larger_array_has_the_same_result_as_its_copy(name):
    picture = as_type(noisy()[None], np.uint8)
    window = picture[:, 5:40, 10:50]

    np.testing.assert_array_equal(denoised(name, window), denoised(name, window.copy()))


def test_both_libraries_agree_on_each_blend():
    tiles = np.stack([noisy()] * 4)
    blends = rows(Blend(), Blend(1, 0, 0), Blend(0.5, 1, 1), Blend(0.7, 0.9, 0.5))

    one, other = (
        load(random_weights()).denoise(tiles, blends)
        for load in (
            lambda weights: OpenVINOEngine(weights, threads=1, precision="float32"),
            lambda weights: TorchEngine(weights, precision="float32"),
        )
    )

    assert np.abs(one.tiles - tiles).mean(axis=(1, 2, 3)).min() > 0.01  # so the comparison means something
    np.testing.assert_allclose(one.tiles, other.tiles, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.noise, other.noise, rtol=1e-4)
    np.testing.assert_allclose(one.variation, other.variation, rtol=1e-4, atol=1e-6)


@each_engine
def test_luma_and_chroma_are_removed_apart(name):
    tiles = np.stack([noisy()] * 3)

    full, luma, chroma = denoised(name, tiles, Blend(), Blend(1, 0), Blend(0, 1)) - tiles

    weights = np.float32(LUMA)
    np.testing.assert_allclose(luma + chroma, full, rtol=0, atol=1e-5)
    np.testing.assert_allclose(luma, np.repeat(full @ weights[:, None], 3, axis=2), rtol=0, atol=1e-5)
    np.testing.assert_allclose(chroma @ weights, 0, rtol=0, atol=1e-5)


@each_engine
def test_a_tile_without_detail_is_the_same_beside_a_tile_with_detail(name):
    tiles = np.stack([as_type(noisy(), np.uint8)] * 2)

    both = denoised(name, tiles, Blend(detail=1), Blend())
    alone = denoised(name, tiles[:1], Blend())

    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(both[0].astype(int) - alone[0]).max() > 10


@each_engine
def test_detail_keeps_grain_in_texture_and_none_on_an_even_area(name):
    height, width = 96, 192
    y, x = np.mgrid[:height, :width]
    clean = np.where(x < width // 2, 0.5, 0.5 + 0.2 * np.sin(x) * np.sin(y * 1.3)).astype(np.float32)
    noise = np.random.default_rng(2).normal(0, 20 / 255, (height, width, 3)).astype(np.float32)
    tile = (clean[..., None] + noise)[None]

    without, with_detail = denoised(name, np.repeat(tile, 2, axis=0), Blend(), Blend(detail=1))
    kept = np.abs(with_detail - without)

    even, texture = kept[10:-10, 10:80].mean(), kept[10:-10, 112:-10].mean()
    assert texture > 5 * even
    assert texture > 3 / 255


@each_engine
def test_the_noise_of_each_block_is_reported_by_its_scale(name):
    """The shipped weights find nearly all white noise. It has the same strength at all scales."""
    picture = np.full((128, 144, 3), 0.5, np.float32)
    picture += np.random.default_rng(8).normal(0, 25 / 255, picture.shape).astype(np.float32)

    noise = engine(name).denoise(picture[None], rows(Blend(0.3, 0.2))).noise

    assert noise.shape == (1, 128 // BLOCK, 144 // BLOCK, 2 * len(SCALES))
    luma, chroma = 255 * np.sqrt(noise.mean(axis=(0, 1, 2))).reshape(2, -1)
    expected_luma = 25 * np.linalg.norm(LUMA)
    np.testing.assert_allclose(luma, expected_luma, rtol=0.1)
    # The chroma of a channel is the noise of the channel minus the luma.
    expected_chroma = 25 * (1 + np.square(LUMA).sum() - 2 * np.mean(LUMA)) ** 0.5
    np.testing.assert_allclose(chroma, expected_chroma, rtol=0.1)


@each_engine
def test_the_variation_of_each_block_of_the_result_is_reported_by_its_scale(name):
    tile = noisy()[None, :48, :64]

    result = engine(name).denoise(tile, rows(Blend(0.7, 0.4)))

    luma = result.tiles @ np.float32(LUMA)[:, None]
    expected = []
    for part in (luma, result.tiles - luma):
        for scale in SCALES:
            cells = part.reshape(48 // scale, scale, 64 // scale, scale, -1).mean(axis=(1, 3))
            blocks = cells.reshape(48 // BLOCK, BLOCK // scale, 64 // BLOCK, BLOCK // scale, -1)
            expected.append(blocks.var(axis=(1, 3)).mean(axis=-1) * scale**2)
    np.testing.assert_allclose(result.variation[0], np.stack(expected, axis=-1), rtol=1e-3, atol=1e-6)


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

    actual, expected = (psnr(one.denoise(tile, rows(Blend())).tiles[0] / white) for one in (on_gpu, engine(REFERENCE)))

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
load_engine(load_shipped(), "cpu", 1).denoise(np.zeros((1, 16, 16, 3), np.uint8), np.ones((1, 3), np.float32))
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
