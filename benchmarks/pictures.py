"""The pictures of the benchmarks: generated, or scaled from the photos in the folder PIXTOOLS_BENCH_PHOTOS."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]

SMALL: Size = (768, 512)  # 0.4 megapixels
TWO_MEGAPIXELS: Size = (1732, 1155)
TWELVE_MEGAPIXELS: Size = (4242, 2828)
CAMERA: tuple[Size, ...] = ((3464, 2309), (4242, 2828), (4898, 3265), (5476, 3651))  # 8, 12, 16 and 20 megapixels

_MADE_IN: Size = (1732, 1155)  # larger pictures are enlarged from this size
_SMOOTH_OCTAVES, _DECAY, _CONTRAST = 4, 0.42, 1.3
_SENSOR_NOISE = 4
_LANCZOS = Image.Resampling.LANCZOS
_MAKE, _MODEL, _EXPOSURE_IFD, _EXPOSURE_TIME = 0x010F, 0x0110, 0x8769, 0x829A


def jpegs(sizes: list[Size], quality: int = 90) -> list[bytes]:
    """Return a different photo as JPEG (4:2:0, with some EXIF) for each of `sizes`."""
    folder = os.environ.get("PIXTOOLS_BENCH_PHOTOS")
    files = _photos(Path(folder)) if folder else []
    return [_jpeg(_picture(files, number, size), quality) for number, size in enumerate(sizes)]


class Supply:
    """Hands out some JPEGs in turn. Each copy has another comment, so no job can use the result of an earlier job."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.pictures = pictures
        self._numbers = count()

    def take(self) -> tuple[int, bytes]:
        """Return the next JPEG, and its place in the list of pictures."""
        number = next(self._numbers)
        place = number % len(self.pictures)
        return place, with_comment(self.pictures[place], f"{number}")


def with_comment(jpeg: bytes, text: str) -> bytes:
    """Return a JPEG with a further comment. Its pixels are the same."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def _photos(folder: Path) -> list[Path]:
    """Return the photos in a folder. Raises SystemExit if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    readable = [path for path in found if _is_readable(path)]
    if not readable:
        raise SystemExit(f"PIXTOOLS_BENCH_PHOTOS={folder} contains no JPEG")
    return readable


def _is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return min(image.size) >= 512  # noqa: PLR2004 (smaller pictures would only be enlarged)
    except OSError:
        return False


def _picture(files: list[Path], number: int, size: Size) -> Image.Image:
    if files:
        with Image.open(files[number % len(files)]) as image:
            image.draft("RGB", size)
            picture = image.convert("RGB")
        return picture if picture.size == size else picture.resize(size, _LANCZOS)
    picture = landscape(number, min(size, _MADE_IN))
    return picture if picture.size == size else _with_sensor_noise(picture.resize(size, _LANCZOS), number)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    exif = Image.Exif()
    exif[_MAKE], exif[_MODEL] = "PixTools", "Benchmark"
    exif.get_ifd(_EXPOSURE_IFD)[_EXPOSURE_TIME] = 1 / 125
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling="4:2:0", exif=exif)
    return out.getvalue()


def landscape(seed: int, size: Size) -> Image.Image:
    """Return a picture of random noise that is as hard to encode as a photo.

    The noise has details of all sizes. In some places the picture is smooth, as the sky in a photo.

    The constants were chosen so that pictures of 0.4 megapixels come close to the medians of the Kodak photos: files
    differ by less than 10 % in bytes, and by less than 20 % in the CPU time that they take (JPEG, WebP, AVIF, PNG).
    """
    rng = np.random.default_rng(seed)
    texture = np.exp(_CONTRAST * _enlarged(rng, 3, size))
    layers = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(1, max(size).bit_length()):
        gray = _enlarged(rng, octave, size)
        strength = 2 ** (-_DECAY * octave) * (texture if octave > _SMOOTH_OCTAVES else 1)
        for channel in range(3):
            layers[:, :, channel] += (0.9 * gray + 0.45 * _enlarged(rng, octave, size)) * strength
    return _image(128 + 48 * layers)


def _enlarged(rng: np.random.Generator, octave: int, size: Size) -> NDArray[np.float32]:
    """Return smooth noise as an array (height, width).

    The function draws a square with `2**octave` normally distributed values on each side, and enlarges it to `size`.
    """
    noise = rng.standard_normal((2**octave, 2**octave), np.float32)
    return np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))


def _with_sensor_noise(picture: Image.Image, seed: int) -> Image.Image:
    """Add gray noise to each pixel. A JPEG of the result has about 2.3 bits a pixel, as those of phones and cameras."""
    noise = np.random.default_rng(seed).standard_normal((picture.height, picture.width), np.float32)
    return _image(np.asarray(picture) + _SENSOR_NOISE * noise[:, :, None])


def _image(values: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def small_photos(number: int) -> Iterator[bytes]:
    """Yield JPEGs of 0.4 megapixels. All files differ."""
    supply = Supply(jpegs([SMALL] * min(number, 16)))
    for _ in range(number):
        yield supply.take()[1]
