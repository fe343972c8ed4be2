"""Draws the picture of docs/denoising.md: python docs/denoise.py. This takes some seconds of one core.

The noise is like the noise of a camera at high sensitivity: Gaussian, with a standard deviation of 25 for pixel values
of 0 to 255, and clipped at black and white.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scene import festival

from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import load_engine
from pixtools.denoising.restoration import denoise
from pixtools.imaging.text_rendering import render_text

PICTURE = Path(__file__).with_name("denoise.webp")
MAX_BYTES = 300_000
SIGMA = 25
WIDTH, HEIGHT = 1200, 640

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""


def to_pixels(scene: NDArray[np.float64]) -> Pixels:
    """Clip and round a scene of 0..1 to uint8."""
    return np.uint8(np.clip(np.rint(scene * 255), 0, 255))


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two pictures, in dB."""
    error = np.mean(np.square(one.astype(np.float64) - other))
    return 10 * math.log10(255**2 / error)


def side_by_side(before: Pixels, after: Pixels, captions: tuple[str, str]) -> Image.Image:
    """Return the left half of `before` and the right half of `after` as one picture, with a line and two captions."""
    middle = before.shape[1] // 2
    picture = Image.fromarray(np.hstack([before[:, :middle], after[:, middle:]]))
    picture.paste("white", (middle - 1, 0, middle + 1, picture.height))
    for caption, edge in zip(captions, (16, None), strict=True):
        text = render_text(caption, 24, "#ffffff", "left")
        left = edge if edge is not None else picture.width - text.width - 16
        picture.paste(text, (left, 16), text)
    return picture


def main() -> None:
    """Draw a scene, add noise, denoise it, and write the picture."""
    scene = festival(WIDTH, HEIGHT)
    noise = np.random.default_rng(25).normal(0, SIGMA / 255, scene.shape)
    clean, noisy = to_pixels(scene), to_pixels(scene + noise)
    frames, report = denoise(load_engine(load_shipped(), "cpu", threads=1), noisy[None])
    denoised = np.uint8(frames[0])
    before, after = psnr(clean, noisy), psnr(clean, denoised)
    captions = (f"σ {report.found.sigma:.1f} found · {before:.1f} dB", f"denoised · {after:.1f} dB")
    side_by_side(noisy, denoised, captions).save(PICTURE, quality=80, method=6)
    if PICTURE.stat().st_size > MAX_BYTES:
        sys.exit(f"{PICTURE} has {PICTURE.stat().st_size} bytes, more than {MAX_BYTES}")
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes; {captions[0]} → {captions[1]}")


if __name__ == "__main__":
    main()
