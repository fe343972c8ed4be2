"""An engine that runs on a CPU, with OpenVINO.

Some layers were trained for int8, and the file of the weights lists these layers. On a CPU with instructions for int8
(VNNI), a layer takes less time in int8 than in bfloat16. But in int8, the denoiser removes slightly less noise: see the
model card.

Two results were measured on one core with AVX-512 bf16. A model with dynamic shapes takes as much time and memory as a
model with fixed shapes. A batch of large tiles takes as long as a separate call for each tile.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# On import, OpenVINO sends telemetry over the network and writes files to the home folder. OpenVINO does neither if its
# package `openvino_telemetry` cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino import opset13 as op  # noqa: E402

from pixtools.denoising.dncnn import ACTIVATION_STEPS, CHANNELS, DEPTH, KERNEL_STEPS, Weights  # noqa: E402
from pixtools.denoising.engine import (  # noqa: E402
    BLEND_PARTS,
    BLOCK,
    DETAIL,
    GRAIN_RADIUS,
    LUMA,
    SCALES,
    SMALL_VARIANCE,
    TEXTURE_RADIUS,
    WHITE,
    Denoised,
    Effort,
    Tiles,
)

Precision = Literal["int8", "bfloat16", "float32"]


class OpenVINOEngine:
    """DnCNN on `threads` threads of the CPU. If `precision` is None, `best_precision` chooses it by the effort.

    With int8, the layers that were not trained for int8 run in bfloat16, or in float32 if the CPU does not support
    bfloat16. Raises ValueError if `precision` is int8 but the CPU or the weights do not allow int8.
    """

    batch_pixels = 512 * 512  # several small tiles are faster in one call; two large tiles take twice as long as one

    def __init__(
        self, weights: Weights, threads: int, precision: Precision | None = None, effort: Effort = "normal"
    ) -> None:
        self._weights, self._core = weights, openvino.Core()
        has_int8 = bool(weights.int8) and has_vnni()
        has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "int8" and not has_int8:
            raise ValueError("int8 needs a CPU with VNNI, and weights that were trained for int8: omit the precision")
        chosen = precision or best_precision(effort, has_int8=has_int8, has_bfloat16=has_bfloat16)
        self._int8 = weights.int8 if chosen == "int8" else ()
        others = best_precision(effort, has_int8=False, has_bfloat16=has_bfloat16) if self._int8 else chosen
        self._options = {
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[others],
            "INFERENCE_NUM_THREADS": threads,
            # All threads work on the same call.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # With pinning, all processes on a machine would run on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        device = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        precisions = f"int8 and {others}" if self._int8 else others
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}, {device}, {threads} threads, {precisions}"
        # A key has the type of the tiles, and whether the model can keep grain.
        self._compiled: dict[tuple[np.dtype[np.generic], bool], openvino.CompiledModel] = {}
        self._last: openvino.CompiledModel | None = None  # the model that ran last; the others keep no memory for calls

    def denoise(self, tiles: Tiles, blends: NDArray[np.float32]) -> Denoised:
        """Denoise tiles: see Engine.

        Each type of tiles has two models, with detail and without. The first call of a model compiles it.
        """
        compiled = self._compiled_model(tiles.dtype, keeps_grain=bool(blends[:, DETAIL].any()))
        if compiled is not self._last:
            self.free()
            self._last = compiled
        # OpenVINO reads the memory of the arrays directly, so the arrays must be contiguous.
        inputs = [np.ascontiguousarray(tiles), np.ascontiguousarray(blends, np.float32)]
        results = compiled(inputs, share_inputs=True)
        return Denoised(results[0], results[1], results[2])

    def free(self) -> None:
        """Free the memory of the layers' results: see Engine. The compiled models stay."""
        if self._last is not None:
            self._last.release_memory()
            self._last = None

    def _compiled_model(self, dtype: np.dtype[np.generic], *, keeps_grain: bool) -> openvino.CompiledModel:
        key = dtype, keeps_grain
        if key not in self._compiled:  # takes 0.1 s
            model = _model(self._weights, dtype, self._int8, keeps_grain=keeps_grain)
            self._compiled[key] = self._core.compile_model(model, "CPU", self._options)
        return self._compiled[key]


def best_precision(effort: Effort, *, has_int8: bool, has_bfloat16: bool) -> Precision:
    """Return the precision for an effort: the first of these that is possible.

    - `normal`: bfloat16, int8, float32. bfloat16 gives nearly the results of float32.
    - `fast`: int8, bfloat16, float32. int8 is the fastest, and float32 is by far the slowest.
    """
    if has_int8 and (effort == "fast" or not has_bfloat16):
        return "int8"
    return "bfloat16" if has_bfloat16 else "float32"


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU has VNNI. Without VNNI, sums of int8 products have only 16 bits and overflow."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return False
    return any(not {"avx512_vnni", "avx_vnni"}.isdisjoint(line.split()) for line in lines if line.startswith("flags"))


def _model(
    weights: Weights, dtype: np.dtype[np.generic], int8: tuple[int, ...], *, keeps_grain: bool
) -> openvino.Model:
    """Build the model. Its inputs are tiles (N, H, W, 3) and blends (N, 3). Its outputs are the arrays of Denoised.

    A model without `keeps_grain` is only for blends whose detail is 0. On a CPU with AMX, this model takes a tenth less
    time.
    The operations before and after the network are always in float32, so that a strength of 0 changes no pixel.
    """
    white = np.float32(WHITE[dtype])
    tiles = op.parameter([-1, -1, -1, CHANNELS], dtype, name="tiles")
    blends = op.parameter([-1, BLEND_PARTS], np.float32, name="blends")
    noisy = op.transpose(op.divide(op.convert(tiles, "f32"), white), [0, 3, 1, 2])  # (N, 3, H, W)
    luma, chroma = _split(_network(weights, int8, noisy))
    luma_part, chroma_part, detail = (  # each (N, 1, 1, 1)
        op.unsqueeze(part, [2, 3]) for part in op.split(blends, 1, BLEND_PARTS).outputs()
    )
    removed_luma = luma
    if keeps_grain:
        kept = op.multiply(detail, _grain_in_texture(op.subtract(_luma(noisy), luma), luma))
        removed_luma = op.subtract(luma, kept)
    removed = op.add(op.multiply(luma_part, removed_luma), op.multiply(chroma_part, chroma))
    clean = op.subtract(noisy, removed)
    noise, variation = _strengths(luma, chroma), _strengths(*_split(clean), centred=True)
    clean = op.transpose(clean, [0, 2, 3, 1])
    if dtype != np.float32:
        clean = op.round(op.multiply(op.clamp(clean, 0, 1), white), "HALF_TO_EVEN")
        clean = op.convert(clean, {np.uint8: "u8", np.uint16: "u16"}[dtype.type])
    return openvino.Model([clean, noise, variation], [tiles, blends], "DnCNN")


def _network(weights: Weights, int8: tuple[int, ...], noisy: openvino.Node) -> openvino.Node:
    """Return the noise (N, 3, H, W) that the network predicts. `int8` lists the layers that run in int8."""
    noise = noisy
    for layer in range(DEPTH):
        array, bias = weights.arrays[f"model.{2 * layer}.weight"], weights.arrays[f"model.{2 * layer}.bias"]
        kernels = op.constant(array)
        if layer:
            noise = op.relu(noise)
        if layer in int8:
            largest = np.abs(array).max(axis=(1, 2, 3), keepdims=True)
            noise = _rounded(noise, np.float32(0), np.float32(1), ACTIVATION_STEPS)
            kernels = _rounded(kernels, -largest, largest, 2 * KERNEL_STEPS)
        noise = op.convolution(noise, kernels, [1, 1], [1, 1], [1, 1], [1, 1])
        noise = op.add(noise, op.constant(bias.reshape(1, -1, 1, 1)))
    return noise


def _luma(picture: openvino.Node) -> openvino.Node:
    """Return the luma (N, 1, H, W) of a picture (N, 3, H, W)."""
    weights = np.array(LUMA, np.float32).reshape(1, 3, 1, 1)
    return op.reduce_sum(op.multiply(picture, weights), [1], keep_dims=True)


def _split(picture: openvino.Node) -> tuple[openvino.Node, openvino.Node]:
    """Split a picture (N, 3, H, W) into its luma (N, 1, H, W) and its chroma (N, 3, H, W)."""
    luma = _luma(picture)
    return luma, op.subtract(picture, luma)


def _grain_in_texture(clean: openvino.Node, noise: openvino.Node) -> openvino.Node:
    """Return the grain of the luma noise, weighted by the texture of the clean luma. All are (N, 1, H, W).

    The weight is that of a Wiener filter: the share of the texture in the variance of texture and noise together.
    """
    mean = _average(clean, TEXTURE_RADIUS)
    texture = op.relu(op.subtract(_average(op.multiply(clean, clean), TEXTURE_RADIUS), op.multiply(mean, mean)))
    variance = _average(op.multiply(noise, noise), TEXTURE_RADIUS)
    weight = op.divide(texture, op.add(op.add(texture, variance), np.float32(SMALL_VARIANCE)))
    return op.multiply(weight, op.subtract(noise, _average(noise, GRAIN_RADIUS)))


def _average(plane: openvino.Node, radius: int) -> openvino.Node:
    """Return the averages over squares around each pixel. At the edges, only pixels inside count."""
    side, ends = [2 * radius + 1] * 2, [radius] * 2
    return op.avg_pool(plane, [1, 1], ends, ends, side, exclude_pad=True)


def _strengths(*pictures: openvino.Node, centred: bool = False) -> openvino.Node:
    """Return the strength of pictures (N, C, H, W) at each scale: (N, h, w, 6), with numbers for each block.

    With `centred`, the mean of each block is subtracted first.
    """
    strengths = [_strength(picture, scale, centred=centred) for picture in pictures for scale in SCALES]
    return op.transpose(op.concat(strengths, 1), [0, 2, 3, 1])


def _strength(picture: openvino.Node, scale: int, *, centred: bool) -> openvino.Node:
    side, reduced = BLOCK // scale, _pooled(picture, scale)
    power = _pooled(op.multiply(reduced, reduced), side)
    if centred:
        mean = _pooled(reduced, side)
        power = op.subtract(power, op.multiply(mean, mean))
    return op.multiply(op.reduce_mean(power, [1], keep_dims=True), np.float32(scale**2))


def _pooled(picture: openvino.Node, side: int) -> openvino.Node:
    """Reduce a picture: each square of `side` × `side` pixels becomes its average."""
    return picture if side == 1 else op.avg_pool(picture, [side] * 2, [0, 0], [0, 0], [side] * 2, exclude_pad=True)


def _rounded(node: openvino.Node, lowest: Any, highest: Any, steps: int) -> openvino.Node:
    """Clip to lowest..highest and round to `steps` equal steps.

    OpenVINO runs a convolution in int8 if both of its inputs are rounded in this way.
    """
    ends = [op.constant(lowest), op.constant(highest)]
    return op.fake_quantize(node, *ends, *ends, steps + 1)
