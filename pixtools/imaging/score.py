"""How near a picture comes to its original: SSIMULACRA2, by the library of that name. Slow to import: scipy.

The metric compares two pictures at six scales, each half of the one before. The library takes two CPU seconds and
550 MB a megapixel over all of them, so a large picture is compared whole at its coarse scales only, and at the fine
ones by a sample: a mosaic of blocks, the same of both pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ssimulacra2 import ssimulacra2 as metric

from pixtools.imaging.color import flatten
from pixtools.imaging.picture import Picture, Size

Linear = NDArray[np.float64]
"""(H, W, 3), linear RGB, 0 to 1."""

_SCALES = 6
_LEAST_SIDE = 8  # of a scale, by the metric
_WHOLE_PIXELS = 1_300_000  # compared whole
_SAMPLE_PIXELS = 1 << 20
_BLOCK = 64
_ALIGNED = 32  # so that the blocks of a codec lie in the mosaic as they lie in the picture
_BAND = 256  # rows that are shrunk at a time
_GOLDEN = 0.618034
_MID_GREY = "#808080"

_LINEAR: Linear = metric.srgb_to_linear(np.arange(256, dtype=np.float64))  # (256,)


class Reference:
    """An original, against which any number of pictures of its size are scored.

    Measured against the library on all of the picture (photos of 2 to 8 megapixels, JPEG, WebP and AVIF at 60 to 85):
    at most 0.2 away. `benchmarks/target.py` shows it.
    """

    def __init__(self, picture: Picture) -> None:
        self._levels = _levels(picture)

    def score(self, picture: Picture) -> float:
        """Return the score of the first frame: 100 is the same, 90 cannot be told from it, 50 is mediocre.

        Transparency is compared on a middle grey. Numbers are taken as sRGB, as the metric's own tool takes them:
        both pictures have the same profile.
        """
        found = metric.Msssim()
        found.scales = [_compared(*pair) for pair in zip(self._levels, _levels(picture), strict=True)]
        return float(found.score())


@dataclass(frozen=True)
class _Level:
    """One scale of one picture in XYB, with the blurred values and squares that SSIM is made of."""

    xyb: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]


def _levels(picture: Picture) -> list[_Level]:
    image = picture.image
    halved = 0  # scales at which the whole picture is too much
    while image.width * image.height / 4**halved > _WHOLE_PIXELS:
        halved += 1
    if not halved:
        return _pyramid(_LINEAR[_pixels(image)], _SCALES)
    return _pyramid(_LINEAR[_mosaic(image)], halved) + _pyramid(_shrunk(image, halved), _SCALES - halved)


def _pyramid(linear: Linear, scales: int) -> list[_Level]:
    levels = []
    for _ in range(scales):
        if min(linear.shape[:2]) < _LEAST_SIDE:
            break
        xyb = metric.make_positive_xyb(metric.linear_rgb_to_xyb(linear))
        levels.append(_Level(xyb, metric.blur_image(xyb), metric.blur_image(xyb * xyb)))
        linear = metric.downsample(linear, 2, 2)
    return levels


def _compared(one: _Level, other: _Level) -> Any:
    scale = metric.MsssimScale()
    product = metric.blur_image(one.xyb * other.xyb)
    scale.avg_ssim = metric.ssim_map(one.mean, other.mean, one.square, other.square, product)
    scale.avg_edgediff = metric.edge_diff_map(one.xyb, one.mean, other.xyb, other.mean)
    return scale


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return uint8 (H, W, 3)."""
    return np.asarray(flatten(Picture.still(image), _MID_GREY).image.convert("RGB"))


def _mosaic(image: Image.Image) -> NDArray[np.uint8]:
    rows = [[_pixels(image.crop(block)) for block in row] for row in _sample(image.size)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])  # (rows * B, columns * B, 3)


def _sample(size: Size) -> list[list[tuple[int, int, int, int]]]:
    """Return rows of blocks to look at, one in each cell of a grid over the picture, as Pillow has its boxes.

    Where in its cell a block lies goes by the golden ratio: evenly, and in step with no pattern of the picture.
    """
    width, height = (min(_BLOCK, side) for side in size)
    count = _SAMPLE_PIXELS / (width * height)
    columns = min(max(1, round((count * size[0] / size[1]) ** 0.5)), size[0] // width)
    rows = min(max(1, round(count / columns)), size[1] // height)
    across, down = size[0] / columns, size[1] / rows
    found: list[list[tuple[int, int, int, int]]] = []
    for row in range(rows):
        found.append([])
        for column in range(columns):
            x = int(column * across + (across - width) * ((row + 1) * _GOLDEN % 1)) // _ALIGNED * _ALIGNED
            y = int(row * down + (down - height) * ((column + 1) * _GOLDEN % 1)) // _ALIGNED * _ALIGNED
            found[-1].append((x, y, x + width, y + height))
    return found


def _shrunk(image: Image.Image, halvings: int) -> Linear:
    """Return the picture as the metric halves it, a band of rows at a time: to the last odd row, which it weighs."""
    bands = []
    for top in range(0, image.height, _BAND):
        band = _LINEAR[_pixels(image.crop((0, top, image.width, min(top + _BAND, image.height))))]
        for _ in range(halvings):
            band = metric.downsample(band, 2, 2)
        bands.append(band)
    return np.concatenate(bands)
