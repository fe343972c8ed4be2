"""Converts colours, and handles profiles, CMYK, bit depths other than 8 bits, grey, and transparency."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import lru_cache

from PIL import Image, ImageChops, ImageCms, ImageColor

from pixtools.imaging.bit_depth import from_16_bit, from_32_bit, load
from pixtools.imaging.picture import Picture

_MODES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
"""Pillow's mode for each colour space that a profile may describe (ICC.1:2022, 7.2.6)."""


def flatten(picture: Picture, background: str = "white") -> Picture:
    """Draw a picture with alpha on a background colour, for formats without alpha. Returns mode L or RGB.

    Pillow's convert() alone would drop the alpha channel and show the colours of transparent pixels.
    """
    if not picture.has_alpha:
        return picture
    mode, background = "RGB" if picture.mode == "RGBA" else "L", shade(background, picture)

    def flattened(frame: Image.Image) -> Image.Image:
        ground = Image.new("RGBA", frame.size, background)
        ground.alpha_composite(frame.convert("RGBA"))
        return ground.convert(mode)

    return picture.map(flattened)


def with_alpha(picture: Picture) -> Picture:
    """Return the picture in mode LA or RGBA. An added alpha channel is opaque."""
    if picture.has_alpha:
        return picture
    mode = {"L": "LA", "RGB": "RGBA"}[picture.mode]
    return picture.map(lambda frame: frame.convert(mode))


def with_room_for(color: str, picture: Picture) -> Picture:
    """Return the picture in a mode that can show an opaque `color`, `#rrggbb`.

    A grey picture becomes RGB or RGBA if `color` is not grey.
    """
    red, green, blue = ImageColor.getrgb(color)[:3]
    return picture if red == green == blue else to_rgb(picture)


def shade(color: str, picture: Picture) -> str:
    """Convert an opaque sRGB colour to the colour space of the picture. Returns `#rrggbb`."""
    if picture.icc is None:
        return color
    pixel = from_srgb(Image.new("RGBA", (1, 1), color), picture.icc).convert("RGB").tobytes()
    return f"#{pixel.hex()}"


def to_rgb(picture: Picture) -> Picture:
    """Convert grey pixels to RGB or RGBA in sRGB, because a grey profile does not describe RGB.

    A picture that is not grey is returned unchanged.
    """
    if picture.mode not in ("L", "LA"):
        return picture
    mode = "RGBA" if picture.has_alpha else "RGB"
    return to_srgb(picture).map(lambda frame: frame.convert(mode))


def without_grey_profile(picture: Picture) -> Picture:
    """Convert a grey picture to sRGB, without a profile. This is for formats that store grey as RGB.

    A grey profile does not describe RGB.
    """
    return picture if picture.mode.startswith("RGB") else to_srgb(picture)


def to_srgb(picture: Picture) -> Picture:
    """Convert the picture to sRGB, in the same mode, without a profile. A picture without a profile is sRGB already.

    The rendering intent is relative colorimetric with black point compensation. Colours inside sRGB keep their
    appearance, and colours outside sRGB are clipped. Raises PyCMSError or OSError if the profile cannot be used.
    Decoded pictures have no such profile, because `normalise` drops it.
    """
    if picture.icc is None:
        return picture
    grey, alpha = not picture.mode.startswith("RGB"), picture.has_alpha
    color_mode = "L" if grey else "RGB"
    transform = _transform(picture.icc, color_mode)

    def converted(frame: Image.Image) -> Image.Image:
        result = _applied(frame.convert(color_mode) if alpha else frame, transform)
        if grey:
            result = result.convert("L")  # a grey profile gives neutral RGB, so nothing is lost
        if alpha:
            result.putalpha(frame.getchannel("A"))
        return result

    return replace(picture.map(converted), icc=None)


def from_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert RGBA pixels from sRGB to the colour space of the profile `icc`, RGB or grey.

    Returns RGBA, which can be drawn on a picture with this profile. Some profiles, such as scanner profiles, have no
    transform from sRGB. With such a profile, the pixels are returned unchanged. Raises nothing.
    """
    if icc is None:
        return image
    try:
        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc)), "RGB",
            "L" if icc[16:20] == b"GRAY" else "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError):
        return image
    result = _applied(image.convert("RGB"), transform).convert("RGB")
    result.putalpha(image.getchannel("A"))
    return result


def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the transform from pixels of `mode` to sRGB. Raises PyCMSError or OSError if there is no transform."""
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), mode, "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # noqa: S101 (None is returned only if the image is changed in place)
    return result


def to_grey(picture: Picture) -> Picture:
    """Convert the picture to grey, with the luma of ITU-R BT.601. Returns mode L or LA, without a profile."""
    picture = to_srgb(picture)
    if picture.mode in ("L", "LA"):
        return picture
    mode = "LA" if picture.has_alpha else "L"
    return picture.map(lambda frame: frame.convert(mode))


def normalise(image: Image.Image, icc: bytes | None) -> Picture:
    """Decode an opened image to a still of mode L, LA, RGB or RGBA with 8 bits.

    The picture keeps the profile `icc` only if this profile still describes the pixels:

        CMYK and LAB become sRGB, without a profile.
        Grey pixels with an RGB profile become sRGB grey, without a profile.
        A profile that cannot be used, or that belongs to another colour space, is dropped.

    Raises one of `DECODER_ERRORS` if the file is damaged.
    """
    image = load(image)
    picture = Picture.still(_in_8_bit(image, icc))
    profile_mode = _MODES.get(icc[16:20]) if icc else None
    if icc is None or profile_mode is None or image.mode in ("CMYK", "LAB") or not _is_usable(icc, profile_mode):
        return picture
    if picture.mode.startswith(profile_mode):
        return replace(picture, icc=icc)
    if profile_mode == "RGB":
        rgb = replace(picture, icc=icc).map(lambda frame: frame.convert("RGBA" if picture.has_alpha else "RGB"))
        return to_srgb(rgb).map(lambda frame: frame.convert(picture.mode))
    # With a grey profile, the pixels may be RGB or RGBA although all of them are grey: some formats store grey as RGB,
    # and `_in_8_bit` converts grey with a transparent colour to RGBA.
    if profile_mode == "L" and is_neutral(picture.image):
        return replace(picture, icc=icc).map(lambda frame: frame.convert("LA" if picture.has_alpha else "L"))
    return picture


def is_neutral(image: Image.Image) -> bool:
    """Return whether every pixel of an RGB or RGBA image is grey."""
    red, green, blue = image.split()[:3]
    return ImageChops.difference(red, green).getbbox() is None and ImageChops.difference(green, blue).getbbox() is None


@lru_cache(maxsize=8)  # because a test takes about 10 ms, and the profile is tested for every frame of an animation
def _is_usable(icc: bytes, mode: str) -> bool:
    """Return whether a profile has a transform from pixels of `mode` to sRGB."""
    try:
        _transform(icc, mode)
    except (ImageCms.PyCMSError, OSError):
        return False
    return True


def _in_8_bit(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert a loaded image to L, LA, RGB or RGBA. CMYK is converted with its profile. Clears `image.info`."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return from_16_bit(image, transparent)
    if image.mode in ("I", "F"):
        return from_32_bit(image)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")  # before `info` is cleared, because `info` holds the transparent colour
    is_adobe = "adobe" in image.info
    image.info.clear()  # otherwise encoders would write data from it: comments, resolution, transparency of a palette
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "CMYK":
        if image.format in ("JPEG", "MPO") and not is_adobe:
            image = ImageChops.invert(image)  # Pillow inverts every CMYK JPEG, but only Adobe's are stored inverted
        if icc and icc[16:20] == b"CMYK" and _is_usable(icc, "CMYK"):
            return _applied(image, _transform(icc, "CMYK"))
    return image.convert("L" if image.mode == "1" else "RGB")
