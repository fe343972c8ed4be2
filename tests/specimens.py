"""One file of each variant that people send. All files show the same scene. Each file has its expected pixels.

The expected pixels are computed from the scene, without a decoder. If a file stores another colour space, `color_math`
converts the colours.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pillow_heif
from color_math import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    Pixels,
    Space,
    cmyk_profile,
    converted,
    converted_8_bit,
    grey_profile,
    inks,
    printed,
    rgb_profile,
)  # fmt: skip
from images import exif, png, saved, stored
from PIL import Image

WIDTH, HEIGHT = 192, 128
DURATIONS = (100, 250, 400)


@dataclass(frozen=True)
class Specimen:
    """A file and its expected pixels. `frames` are uint8 (H, W, 3), or (H, W, 4) with alpha, upright and in sRGB."""

    data: bytes
    frames: tuple[Pixels, ...]
    icc: bytes | None = None  # the profile that results keep
    durations: tuple[int, ...] = ()
    located: bool = False  # its metadata contains the location
    coarse: bool = False  # has subsampled colours, so scores are lower
    jagged: bool = False  # alpha is only 0 or 255, so lossy codecs let colours bleed along the edges

    @property
    def has_alpha(self) -> bool:
        """Whether the expected pixels have an alpha channel."""
        return self.frames[0].shape[-1] == 4


@cache
def scene() -> Pixels:
    """Return uint8 (H, W, 3): soft and saturated colours, edges, fine lines, and four different corners."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    bands = (0.15 + 0.7 * x, 0.5 + 0.35 * np.sin(6 * x + 4 * y), 0.85 - 0.7 * y)
    array = np.stack(bands, axis=-1) * 255
    patches = [(215, 45, 45), (50, 190, 60), (60, 70, 215), (225, 215, 60), (50, 200, 200), (205, 60, 195)]
    for number, color in enumerate(patches):
        array[42:78, 16 + 28 * number : 40 + 28 * number] = color
    array[(x * WIDTH - 96) ** 2 + (y * HEIGHT - 20) ** 2 < 16**2] = (245, 225, 200)
    array[:28, :28], array[:28, -28:] = (250, 250, 250), (12, 12, 16)
    array[-28:, :28], array[-28:, -28:] = (120, 60, 30), (30, 90, 70)
    for axis in (0, 1):  # blurs the scene, as a lens does
        for _ in range(6):
            array = (np.roll(array, 1, axis) + 2 * array + np.roll(array, -1, axis)) / 4
    lines = np.sin(np.arange(80) ** 2 / 60)[None, :, None]  # lines that get finer to the right
    array[88:108, 56:136] += 30 * lines
    return array.round().clip(0, 255).astype(np.uint8)


def grey() -> Pixels:
    """Return (H, W): the scene's green channel."""
    return scene()[..., 1]


def alpha() -> Pixels:
    """Return alpha (H, W): transparent at the left, opaque at the right, with a ramp in between."""
    ramp = np.linspace(-0.5, 1.5, WIDTH).clip(0, 1)
    return np.tile((ramp * 255).round().astype(np.uint8), (HEIGHT, 1))


def with_alpha(pixels: Pixels) -> Pixels:
    """Return the pixels with alpha.

    Transparent pixels have a colour, as in files of editors. Results must not show this colour.
    """
    hidden = pixels.copy()
    hidden[alpha() == 0] = 255 if pixels.ndim == 2 else (255, 0, 255)
    return np.dstack([hidden, alpha()])


def as_rgb(pixels: Pixels) -> Pixels:
    """Convert grey to RGB, or grey with alpha to RGBA."""
    return pixels[..., [0, 0, 0, 1]] if pixels.ndim == 3 else np.dstack([pixels] * 3)


def animated(pixels: Pixels) -> tuple[Pixels, ...]:
    """Return three frames that differ clearly."""
    return pixels, pixels[:, ::-1].copy(), pixels[::-1].copy()


def indexed(pixels: Pixels) -> tuple[Image.Image, Pixels]:
    """Return a palette image of 256 smooth false colours, indexed by the green channel, and its pixels as RGB."""
    entry = np.arange(256)
    table = np.stack([entry, 128 + 90 * np.sin(entry / 50), 255 - entry], axis=-1).round().astype(np.uint8)
    index = np.ascontiguousarray(pixels[..., 1])
    image = Image.fromarray(index, "L")
    image.putpalette(table.tobytes())
    return image, table[index]


def indexed_with_transparency(pixels: Pixels) -> tuple[Image.Image, int, Pixels]:
    """Return a palette image, its transparent index (the index of the upper left corner), and its RGBA pixels."""
    image, shown = indexed(pixels)
    transparent = int(pixels[14, 14, 1])
    return image, transparent, np.dstack([shown, np.where(pixels[..., 1] == transparent, 0, 255).astype(np.uint8)])


def wide_scene() -> Pixels:
    """Return (H, W, 3) in Display P3, with colours outside sRGB."""
    pixels = scene().copy()
    pixels[44:76, 16:38], pixels[44:76, 44:66] = (255, 0, 0), (0, 255, 0)
    return pixels


def grey_with_profile() -> Specimen:
    """Return a grey PNG whose profile has the gamma 1.8 of old Macs."""
    shown = converted_8_bit(as_rgb(grey()), Space(SRGB.primaries, (1.8,)), SRGB)
    return Specimen(saved(grey(), "PNG", icc_profile=grey_profile(1.8)), (shown,), grey_profile(1.8))


def tiff(pixels: np.ndarray, *, tile: int | None = None) -> bytes:
    """Return a TIFF of RGB with 8 or 16 bits, in one strip or in tiles: variants that Pillow cannot write."""
    height, width, samples = pixels.shape
    side = tile or max(width, height)
    pieces = (
        [pixels[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
        if tile
        else [pixels]
    )
    bits = pixels.dtype.itemsize * 8
    blobs = [piece.astype(f"<u{bits // 8}").tobytes() for piece in pieces]
    start = 8 + 2 * samples + 8 * len(blobs)
    offsets = [start + sum(map(len, blobs[:number])) for number in range(len(blobs))]
    extra = struct.pack(f"<{samples}H", *[bits] * samples) + struct.pack(
        f"<{2 * len(blobs)}I", *offsets, *map(len, blobs)
    )
    at = 8 + 2 * samples
    places = (offsets[0], len(blobs[0])) if len(blobs) == 1 else (at, at + 4 * len(blobs))
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    shape = [(322, 4, 1, side), (323, 4, 1, side)] if tile else [(278, 4, 1, height)]
    where = (324, 325) if tile else (273, 279)
    entries += [(277, 3, 1, samples), *shape]
    entries += [(tag, 4, len(blobs), place) for tag, place in zip(where, places, strict=True)]
    index = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    body = extra + b"".join(blobs)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(entries)) + index + bytes(4)


def heic(pixels: Pixels, **options: Any) -> bytes:
    """Return a HEIC without subsampling."""
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(out, format="HEIF", quality=92, chroma=444, **options)
    return out.getvalue()


def as_16_bit(pixels: Pixels) -> np.ndarray:
    """Return the pixels scaled to 16 bits."""
    return pixels.astype(np.uint16) * 257


def png_16(pixels: Pixels, colour: int) -> bytes:
    """Return a 16-bit PNG of this colour type."""
    rows = as_16_bit(pixels).astype(">u2").reshape(HEIGHT, -1)
    return png(WIDTH, HEIGHT, depth=16, colour=colour, rows=b"".join(b"\0" + row.tobytes() for row in rows))


def transparent_16_bit(pixels: Pixels) -> Specimen:
    """Return a 16-bit PNG with a transparent colour. Some opaque pixels differ from it only in the low bits."""
    values = as_16_bit(pixels) ^ 1
    transparent = np.zeros(pixels.shape[:2], bool)
    transparent[:28, :28] = True
    values[transparent] = (1234, 1234, 1234)
    values[:28, 28:32] = (1235, 1234, 1234)
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    chunk = (b"tRNS", struct.pack(">3H", 1234, 1234, 1234))
    expected = np.dstack([values >> 8, np.where(transparent, 0, 255)]).astype(np.uint8)
    return Specimen(png(WIDTH, HEIGHT, depth=16, colour=2, rows=rows, extra=(chunk,)), (expected,), jagged=True)


def tiff_12_bit(pixels: Pixels) -> bytes:
    """Return a grey TIFF with 12 bits for each pixel. `pixels` are (H, W). Three bytes of the file hold two pixels."""
    values = (pixels.astype(np.uint32) * 4095 + 127) // 255
    pairs = values[:, ::2] << 12 | values[:, 1::2]
    packed = pairs.astype(">u4").view(np.uint8).reshape(HEIGHT, -1, 4)[..., 1:]
    data = saved(np.ascontiguousarray(packed).reshape(HEIGHT, -1), "TIFF")
    for tag, kind, written, wanted in ((256, 4, WIDTH * 3 // 2, WIDTH), (258, 3, 8, 12)):
        data = data.replace(struct.pack("<HHII", tag, kind, 1, written), struct.pack("<HHII", tag, kind, 1, wanted))
    return data


def ycck(cmyk: Pixels) -> bytes:
    """Return a CMYK JPEG as Photoshop writes it, with the inks C, M and Y as YCbCr."""
    ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    # Pillow inverts all four channels when it writes, but only black must be inverted. So C, M and Y are inverted here
    # too, and then a second time by Pillow.
    data = bytearray(saved(Image.fromarray(np.dstack([255 - ycc, cmyk[..., 3]]), "CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the transform YCCK in the Adobe marker
    return bytes(data)


def _jpegs() -> dict[str, Callable[[], Specimen]]:
    def still(pixels: Pixels | None = None, **options: Any) -> Callable[[], Specimen]:
        frame = scene() if pixels is None else pixels
        expected = as_rgb(frame) if frame.ndim == 2 else frame
        return lambda: Specimen(
            saved(frame, "JPEG", **{"quality": 92, **options}), (expected,), coarse=options.get("subsampling") != 0
        )

    def turned(orientation: int) -> Callable[[], Specimen]:
        def make() -> Specimen:
            data = saved(stored(scene(), orientation), "JPEG", quality=92, exif=exif(orientation))
            return Specimen(data, (scene(),), located=True, coarse=True)

        return make

    def profiled(pixels: Callable[[], Pixels], space: Any) -> Callable[[], Specimen]:
        def make() -> Specimen:
            profile = rgb_profile(space)
            data = saved(pixels(), "JPEG", quality=95, subsampling=0, icc_profile=profile, exif=exif(1))
            return Specimen(data, (converted_8_bit(pixels(), space, SRGB),), profile, located=True)

        return make

    def cmyk(profile: bytes | None = None) -> Callable[[], Specimen]:
        def make() -> Specimen:
            data = saved(Image.fromarray(inks(scene()), "CMYK"), "JPEG", quality=95, icc_profile=profile)
            return Specimen(data, (on_paper() if profile else scene(),))

        return make

    return {
        "jpeg 4:4:4": still(subsampling=0),
        "jpeg 4:2:0": still(subsampling=2),
        "jpeg progressive": still(progressive=True),
        "jpeg grey": still(grey()),
        "jpeg cmyk": cmyk(),
        "jpeg cmyk with profile": cmyk(cmyk_profile()),
        "jpeg ycck": lambda: Specimen(ycck(inks(scene())), (scene(),)),
        **{f"jpeg turned {number}": turned(number) for number in range(1, 9)},
        "jpeg display p3": profiled(lambda: converted_8_bit(scene(), SRGB, DISPLAY_P3), DISPLAY_P3),
        "jpeg beyond srgb": profiled(wide_scene, DISPLAY_P3),
        "jpeg adobe rgb": profiled(lambda: converted_8_bit(scene(), SRGB, ADOBE_RGB), ADOBE_RGB),
    }


def on_paper() -> Pixels:
    """Return the colours of the scene when it is printed with the inks of the CMYK profile."""
    return (printed(inks(scene()) / 255) * 255).round().astype(np.uint8)


def _pngs() -> dict[str, Callable[[], Specimen]]:
    rgba, la = with_alpha(scene()), with_alpha(grey())
    bilevel = np.where(grey() > 127, 255, 0).astype(np.uint8)
    palette, shown = indexed(scene())
    _, transparent, with_transparency = indexed_with_transparency(scene())

    def animation() -> Specimen:
        first, *others = map(Image.fromarray, animated(scene()))
        data = saved(first, "PNG", save_all=True, append_images=others, duration=list(DURATIONS), loop=0)
        return Specimen(data, animated(scene()), durations=DURATIONS)

    def display_p3() -> Specimen:
        profile = rgb_profile(DISPLAY_P3)
        wide = (converted(scene() / 255, SRGB, DISPLAY_P3) * 255).round().astype(np.uint8)
        return Specimen(saved(wide, "PNG", icc_profile=profile, exif=exif(1)), (scene(),), profile, located=True)

    return {
        "png rgb": lambda: Specimen(saved(scene(), "PNG", exif=exif(1)), (scene(),), located=True),
        "png turned 6": lambda: Specimen(saved(stored(scene(), 6), "PNG", exif=exif(6)), (scene(),), located=True),
        "png rgba": lambda: Specimen(saved(rgba, "PNG"), (rgba,)),
        "png grey": lambda: Specimen(saved(grey(), "PNG"), (as_rgb(grey()),)),
        "png grey and alpha": lambda: Specimen(saved(la, "PNG"), (as_rgb(la),)),
        "png palette": lambda: Specimen(saved(palette, "PNG"), (shown,)),
        "png palette with a transparent colour": lambda: Specimen(
            saved(palette, "PNG", transparency=transparent), (with_transparency,), jagged=True
        ),
        "png bilevel": lambda: Specimen(saved(Image.fromarray(bilevel).convert("1"), "PNG"), (as_rgb(bilevel),)),
        "png 16 bit rgb": lambda: Specimen(png_16(scene(), 2), (scene(),)),
        "png 16 bit rgba": lambda: Specimen(png_16(rgba, 6), (rgba,)),
        "png 16 bit grey": lambda: Specimen(png_16(grey(), 0), (as_rgb(grey()),)),
        "png 16 bit grey and alpha": lambda: Specimen(png_16(la, 4), (as_rgb(la),)),
        "png 16 bit rgb with a transparent colour": lambda: transparent_16_bit(scene()),
        "png grey with profile": grey_with_profile,
        "png display p3": display_p3,
        "png animated": animation,
    }


def _webps_and_avifs() -> dict[str, Callable[[], Specimen]]:
    rgba = with_alpha(scene())
    fine = {"AVIF": {"quality": 92, "speed": 9, "subsampling": "4:4:4"}, "WEBP": {"quality": 95, "method": 2}}

    def still(kind: str, pixels: Pixels, **options: Any) -> Callable[[], Specimen]:
        coarse = options.get("subsampling") == "4:2:0" or (kind == "WEBP" and "lossless" not in options)
        return lambda: Specimen(
            saved(pixels, kind, **{**fine[kind], **options}), (pixels,), located="exif" in options, coarse=coarse
        )

    def turned(kind: str, orientation: int) -> Callable[[], Specimen]:
        def make() -> Specimen:
            data = saved(stored(scene(), orientation), kind, exif=exif(orientation), **fine[kind])
            return Specimen(data, (scene(),), located=True, coarse=kind == "WEBP")

        return make

    def animation(kind: str, **options: Any) -> Callable[[], Specimen]:
        def make() -> Specimen:
            first, *others = map(Image.fromarray, animated(scene()))
            more = {"save_all": True, "append_images": others, "duration": list(DURATIONS)}
            data = saved(first, kind, **fine[kind], **more, **options)
            return Specimen(data, animated(scene()), durations=DURATIONS, coarse=kind == "WEBP")

        return make

    return {
        "webp lossy": still("WEBP", scene(), exif=exif(1)),
        "webp lossless": still("WEBP", scene(), lossless=True),
        "webp with alpha": still("WEBP", rgba),
        "webp turned 8": turned("WEBP", 8),
        "webp animated": animation("WEBP", loop=0),
        "avif": still("AVIF", scene(), exif=exif(1)),
        "avif 4:2:0": still("AVIF", scene(), subsampling="4:2:0"),
        "avif with alpha": still("AVIF", rgba),
        "avif turned 6": turned("AVIF", 6),
        "avif turned 5": turned("AVIF", 5),
        "avif animated": animation("AVIF"),
    }


def _gifs() -> dict[str, Callable[[], Specimen]]:
    palette, shown = indexed(scene())
    _, transparent, with_transparency = indexed_with_transparency(scene())

    def animation() -> Specimen:
        made = [indexed(frame) for frame in animated(scene())]
        first, *others = (image for image, _ in made)
        data = saved(first, "GIF", save_all=True, append_images=others, duration=list(DURATIONS), loop=0)
        return Specimen(data, tuple(frame for _, frame in made), durations=DURATIONS)

    return {
        "gif": lambda: Specimen(saved(palette, "GIF"), (shown,)),
        "gif with a transparent colour": lambda: Specimen(
            saved(palette, "GIF", transparency=transparent), (with_transparency,), jagged=True
        ),
        "gif animated": animation,
    }


def _tiffs_and_bmps() -> dict[str, Callable[[], Specimen]]:
    palette, shown = indexed(scene())
    rgba = with_alpha(scene())
    cmyk = Image.fromarray(inks(scene()), "CMYK")
    grey_16 = Image.fromarray(as_16_bit(grey()))
    return {
        "tiff": lambda: Specimen(saved(scene(), "TIFF", exif=exif(1)), (scene(),), located=True),
        "tiff turned 6": lambda: Specimen(saved(stored(scene(), 6), "TIFF", exif=exif(6)), (scene(),), located=True),
        "tiff lzw": lambda: Specimen(saved(scene(), "TIFF", compression="tiff_lzw"), (scene(),)),
        "tiff jpeg": lambda: Specimen(saved(scene(), "TIFF", compression="jpeg", quality=95), (scene(),)),
        "tiff rgba": lambda: Specimen(saved(rgba, "TIFF", compression="tiff_adobe_deflate"), (rgba,)),
        "tiff cmyk": lambda: Specimen(saved(cmyk, "TIFF"), (scene(),)),
        "tiff cmyk with profile": lambda: Specimen(saved(cmyk, "TIFF", icc_profile=cmyk_profile()), (on_paper(),)),
        "tiff 16 bit rgb": lambda: Specimen(tiff(as_16_bit(scene())), (scene(),)),
        "tiff 16 bit grey": lambda: Specimen(saved(grey_16, "TIFF"), (as_rgb(grey()),)),
        "tiff 12 bit grey": lambda: Specimen(tiff_12_bit(grey()), (as_rgb(grey()),)),
        "tiff in tiles": lambda: Specimen(tiff(scene(), tile=64), (scene(),)),
        "bmp": lambda: Specimen(saved(scene(), "BMP"), (scene(),)),
        "bmp palette": lambda: Specimen(saved(palette, "BMP"), (shown,)),
    }


def _heics() -> dict[str, Callable[[], Specimen]]:
    def display_p3() -> Specimen:
        profile = rgb_profile(DISPLAY_P3)
        wide = converted_8_bit(scene(), SRGB, DISPLAY_P3)
        return Specimen(heic(wide, icc_profile=profile, exif=exif(1).tobytes()), (scene(),), profile, located=True)

    return {
        "heic": lambda: Specimen(heic(scene(), exif=exif(1).tobytes()), (scene(),), located=True),
        "heic display p3": display_p3,
        "heic with alpha": lambda: Specimen(heic(with_alpha(scene())), (with_alpha(scene()),)),
    }


SPECIMENS: dict[str, Callable[[], Specimen]] = {
    name: cache(make)
    for group in (_jpegs, _pngs, _webps_and_avifs, _gifs, _tiffs_and_bmps, _heics)
    for name, make in group().items()
}
"""The functions that make the specimens, by name. The first word of a name is the format."""
