"""The picture of a run: how well it denoises, and how fast it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the lines of a run's log as a PNG: PSNR at each sigma and the learning rate, over megapixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (an optional extra)
    from matplotlib.figure import Figure  # noqa: PLC0415 (without pyplot, which keeps figures and wants a display)

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    quality, rate = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    megapixels = [line["megapixels"] for line in lines]
    for sigma, last in lines[-1]["psnr"].items():
        found = [line["psnr"][sigma] for line in lines]
        quality.plot(megapixels, found, marker=".", label=f"σ {sigma}: {last:.2f} dB")
    quality.set_ylabel("PSNR of held-out photos, dB")
    quality.legend()
    rate.plot(megapixels, [line["rate"] for line in lines], color="black")
    rate.set(xlabel="megapixels of patches", ylabel="learning rate", ylim=(0, None))
    for axes in (quality, rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=100)
