"""DnCNN in OpenVINO: what runs on a CPU.

Measured, on one core with AVX-512 bf16: shapes that are free cost neither time nor memory beside fixed ones, and a
batch is no faster than its tiles one by one.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

# Otherwise importing OpenVINO sends an event to a server of others, and leaves files in the home folder. It does
# without this package where it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
from openvino import opset13 as op  # noqa: E402

from pixtools.denoising.engine import WHITE, Precision, Tiles  # noqa: E402
from pixtools.dncnn import CHANNELS, DEPTH, Weights  # noqa: E402


class OpenVINOEngine:
    """DnCNN on so many threads of the CPU, in bfloat16 where it has instructions for that; else float32."""

    batch_pixels = 512 * 512  # one tile: more take as much longer, and more memory

    def __init__(self, weights: Weights, threads: int, precision: Precision | None = None) -> None:
        self._weights, self._core = weights, openvino.Core()
        fast: Precision = (
            "bfloat16" if "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "float32"
        )
        precision = precision or fast
        self._options = {
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            # All threads work on one call.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Each process would choose the same cores to stay on as its neighbours.
            "ENABLE_CPU_PINNING": False,
        }
        device = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}, {device}, {threads} threads, {precision}"
        self._compiled: dict[np.dtype[np.generic], openvino.CompiledModel] = {}

    def denoise(self, tiles: Tiles, strengths: NDArray[np.float32]) -> Tiles:
        dtype = tiles.dtype
        if dtype not in self._compiled:  # takes 0.1 s
            self._compiled[dtype] = self._core.compile_model(_model(self._weights, dtype), "CPU", self._options)
        # What OpenVINO shares with numpy must be contiguous.
        inputs = [np.ascontiguousarray(tiles), np.ascontiguousarray(strengths, np.float32)]
        denoised: Tiles = self._compiled[dtype](inputs, share_inputs=True)[0]
        return denoised


def _model(weights: Weights, dtype: np.dtype[np.generic]) -> openvino.Model:
    """Build the graph from tiles (N, H, W, 3) and strengths (N,) to tiles.

    What is not a convolution stays in float32, whatever the precision: a strength of 0 changes no pixel.
    """
    white = np.float32(WHITE[dtype])
    tiles = op.parameter([-1, -1, -1, CHANNELS], dtype, name="tiles")
    strengths = op.parameter([-1], np.float32, name="strengths")
    noisy = op.divide(op.convert(tiles, "f32"), white)
    noise = op.transpose(noisy, [0, 3, 1, 2])  # (N, 3, H, W)
    for layer in range(0, 2 * DEPTH, 2):
        kernels, bias = weights[f"model.{layer}.weight"], weights[f"model.{layer}.bias"]
        if layer:
            noise = op.relu(noise)
        noise = op.convolution(noise, op.constant(kernels), [1, 1], [1, 1], [1, 1], [1, 1])
        noise = op.add(noise, op.constant(bias.reshape(1, -1, 1, 1)))
    noise = op.transpose(noise, [0, 2, 3, 1])  # (N, H, W, 3)
    clean = op.subtract(noisy, op.multiply(noise, op.unsqueeze(strengths, [1, 2, 3])))
    if dtype != np.float32:
        clean = op.round(op.multiply(op.clamp(clean, 0, 1), white), "HALF_TO_EVEN")
        clean = op.convert(clean, {np.uint8: "u8", np.uint16: "u16"}[dtype.type])
    return openvino.Model([clean], [tiles, strengths], "DnCNN")
