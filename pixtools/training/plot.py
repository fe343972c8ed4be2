"""Plots the progress of a training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG to `path` with two diagrams: the PSNR for each validation set, and the learning rate.

    The horizontal axis is the length of the run in megapixels. `lines` are the lines of the log: see `run.train`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (an optional extra)
    from matplotlib.figure import Figure  # noqa: PLC0415 (pyplot would need a display and keep all figures)

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    quality, rate = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    megapixels = [line["megapixels"] for line in lines]
    for name, last in lines[-1]["psnr"].items():
        psnr = [line["psnr"].get(name, math.nan) for line in lines]  # an old log may lack a set
        quality.plot(megapixels, psnr, marker=".", label=f"{name}: {last:.2f} dB")
    quality.set_ylabel("PSNR of held-out photos, dB")
    quality.legend()
    rate.plot(megapixels, [line["rate"] for line in lines], color="black")
    rate.set(xlabel="megapixels of patches", ylabel="learning rate", ylim=(0, None))
    for axes in (quality, rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=100)
