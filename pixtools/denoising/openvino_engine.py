"""An engine that runs on a CPU, with OpenVINO.

A layer runs in int8 if it was trained for int8 and the CPU has instructions for int8 (VNNI). The layer then takes half
the time that it takes in bfloat16.

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
from pixtools.denoising.engine import WHITE, Tiles  # noqa: E402

Precision = Literal["int8", "bfloat16", "float32"]


class OpenVINOEngine:
    """DnCNN on `threads` threads of the CPU. The default precision is the fastest that the CPU and the weights allow.

    With int8, the layers that were not trained for int8 run in bfloat16, or in float32 if the CPU does not support
    bfloat16. Raises ValueError if `precision` is int8 but the CPU or the weights do not allow int8.
    """

    batch_pixels = 512 * 512  # several small tiles are faster in one call; two large tiles take twice as long as one

    def __init__(self, weights: Weights, threads: int, precision: Precision | None = None) -> None:
        self._weights, self._core = weights, openvino.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._int8 = weights.int8 if has_vnni() and precision in (None, "int8") else ()
        if precision == "int8" and not self._int8:
            raise ValueError("int8 needs a CPU with VNNI, and weights that were trained for int8: omit the precision")
        if precision in (None, "int8"):
            precision = "bfloat16" if "BF16" in capabilities else "float32"
        self._options = {
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            # All threads work on the same call.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # With pinning, all processes on a machine would run on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        device = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        precisions = f"int8 and {precision}" if self._int8 else precision
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}, {device}, {threads} threads, {precisions}"
        self._compiled: dict[np.dtype[np.generic], openvino.CompiledModel] = {}

    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        """Denoise tiles: see Engine. The first call for each type of tiles compiles the model."""
        dtype = tiles.dtype
        if dtype not in self._compiled:  # takes 0.1 s
            self._compiled[dtype] = self._core.compile_model(
                _model(self._weights, dtype, self._int8), "CPU", self._options
            )
        # OpenVINO reads the memory of the arrays directly, so the arrays must be contiguous.
        inputs = [np.ascontiguousarray(tiles), np.ascontiguousarray(strengths, np.float32)]
        denoised: Tiles = self._compiled[dtype](inputs, share_inputs=True)[0]
        return denoised


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU has VNNI. Without VNNI, sums of int8 products have only 16 bits and overflow."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return False
    return any(not {"avx512_vnni", "avx_vnni"}.isdisjoint(line.split()) for line in lines if line.startswith("flags"))


def _model(weights: Weights, dtype: np.dtype[np.generic], int8: tuple[int, ...]) -> openvino.Model:
    """Build the model. Its inputs are tiles (N, H, W, 3) and strengths (N,). Its output is tiles of the same shape.

    The operations before and after the network are always in float32, so that a strength of 0 changes no pixel.
    """
    white = np.float32(WHITE[dtype])
    tiles = op.parameter([-1, -1, -1, CHANNELS], dtype, name="tiles")
    strengths = op.parameter([-1], np.float32, name="strengths")
    noisy = op.divide(op.convert(tiles, "f32"), white)
    noise = op.transpose(noisy, [0, 3, 1, 2])  # (N, 3, H, W)
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
    noise = op.transpose(noise, [0, 2, 3, 1])  # (N, H, W, 3)
    clean = op.subtract(noisy, op.multiply(noise, op.unsqueeze(strengths, [1, 2, 3])))
    if dtype != np.float32:
        clean = op.round(op.multiply(op.clamp(clean, 0, 1), white), "HALF_TO_EVEN")
        clean = op.convert(clean, {np.uint8: "u8", np.uint16: "u16"}[dtype.type])
    return openvino.Model([clean], [tiles, strengths], "DnCNN")


def _rounded(node: openvino.Node, lowest: Any, highest: Any, steps: int) -> openvino.Node:
    """Clip to lowest..highest and round to `steps` equal steps.

    OpenVINO runs a convolution in int8 if both of its inputs are rounded in this way.
    """
    ends = [op.constant(lowest), op.constant(highest)]
    return op.fake_quantize(node, *ends, *ends, steps + 1)
