"""Computes the SSIMULACRA2 score of a picture, which says how close the picture is to its original.

This module imports scipy, so it takes long to import.

The metric compares two pictures at six scales. Each scale is half the size of the scale before. The library takes two
CPU seconds and 550 MB for each megapixel. So a large picture is compared as a whole only at its coarse scales. At fine
scales, only a sample is compared: a mosaic of blocks that are cut from the same positions in both pictures.
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
"""Linear RGB values from 0 to 1, in an array (H, W, 3)."""

_SCALES = 6
_MIN_SIDE = 8  # the metric skips smaller scales
_MAX_WHOLE_PIXELS = 1_300_000  # if a scale has more pixels, only the sample is compared
_SAMPLE_PIXELS = 1 << 20
_BLOCK = 64
_ALIGNMENT = 32  # block positions are multiples of this, so that blocks of JPEG (8 or 16 pixels wide) are not cut
_BAND = 256  # rows that are shrunk at a time
_GOLDEN = 0.618034
_MID_GREY = "#808080"

_LINEAR: Linear = metric.srgb_to_linear(np.arange(256, dtype=np.float64))  # (256,)


class Reference:
    """An original picture. Any number of pictures of the same size can be compared with it.

    A score differs by at most 0.2 from the score that the library computes from the whole pictures. This was measured
    with `benchmarks/target.py`, on photos of 2 to 8 megapixels in JPEG, WebP and AVIF with qualities from 60 to 85.
    """

    def __init__(self, picture: Picture) -> None:
        self._levels = _levels(picture)

    def score(self, picture: Picture) -> float:
        """Return the score of the first frame. The best score is 100, which means that the frame equals the original.

        At a score of 90, the frame looks the same as the original. A score of 50 is mediocre. Transparent pixels are
        drawn on middle grey. Like the tool of the metric's authors, this method reads the values as sRGB and ignores
        the profile. So both pictures must have the same profile.
        """
        result = metric.Msssim()
        result.scales = [_compared(*pair) for pair in zip(self._levels, _levels(picture), strict=True)]
        return float(result.score())


@dataclass(frozen=True)
class _Level:
    """One scale of one picture: its XYB values, the blurred values, and the blurred squares of the values.

    SSIM needs the blurred values and squares. Each array is float64 (H, W, 3).
    """

    xyb: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]


def _levels(picture: Picture) -> list[_Level]:
    """Return the scales from fine to coarse.

    Scales that are too large show only the mosaic. All other scales show the whole picture.
    """
    image = picture.image
    sampled = 0  # number of scales that are too large
    while image.width * image.height / 4**sampled > _MAX_WHOLE_PIXELS:
        sampled += 1
    if not sampled:
        return _pyramid(_LINEAR[_pixels(image)], _SCALES)
    return _pyramid(_LINEAR[_mosaic(image)], sampled) + _pyramid(_shrunk(image, sampled), _SCALES - sampled)


def _pyramid(linear: Linear, scales: int) -> list[_Level]:
    levels = []
    for _ in range(scales):
        if min(linear.shape[:2]) < _MIN_SIDE:
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
    """Return the RGB values on middle grey, as uint8 (H, W, 3)."""
    return np.asarray(flatten(Picture.still(image), _MID_GREY).image.convert("RGB"))


def _mosaic(image: Image.Image) -> NDArray[np.uint8]:
    rows = [[_pixels(image.crop(block)) for block in row] for row in _sample(image.size)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])  # (rows * _BLOCK, columns * _BLOCK, 3)


def _sample(size: Size) -> list[list[tuple[int, int, int, int]]]:
    """Return the blocks of the sample, as rows of Pillow boxes.

    A grid divides the picture into cells, and each cell contains one block. The golden ratio decides where a block lies
    in its cell. So the positions are spread evenly, and do not follow a pattern of the picture.
    """
    width, height = (min(_BLOCK, side) for side in size)
    count = _SAMPLE_PIXELS / (width * height)
    columns = min(max(1, round((count * size[0] / size[1]) ** 0.5)), size[0] // width)
    rows = min(max(1, round(count / columns)), size[1] // height)
    cell_width, cell_height = size[0] / columns, size[1] / rows
    blocks: list[list[tuple[int, int, int, int]]] = []
    for row in range(rows):
        blocks.append([])
        for column in range(columns):
            x = column * cell_width + (cell_width - width) * ((row + 1) * _GOLDEN % 1)
            y = row * cell_height + (cell_height - height) * ((column + 1) * _GOLDEN % 1)
            left, top = int(x) // _ALIGNMENT * _ALIGNMENT, int(y) // _ALIGNMENT * _ALIGNMENT
            blocks[-1].append((left, top, left + width, top + height))
    return blocks


def _shrunk(image: Image.Image, halvings: int) -> Linear:
    """Return the picture after its sides were halved `halvings` times with the metric's own function.

    To save memory, the picture is divided into bands of rows, and one band is halved at a time. A full band of
    256 rows can be halved without a remainder, so the result is the same as without bands.
    """
    bands = []
    for top in range(0, image.height, _BAND):
        band = _LINEAR[_pixels(image.crop((0, top, image.width, min(top + _BAND, image.height))))]
        for _ in range(halvings):
            band = metric.downsample(band, 2, 2)
        bands.append(band)
    return np.concatenate(bands)
