"""What the numbers of a picture mean: profiles, CMYK, 16 bit, transparency."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import lru_cache

from PIL import Image, ImageChops, ImageCms, ImageColor

from pixtools.imaging.bit_depth import from_16_bit, from_32_bit, load
from pixtools.imaging.picture import Picture


def flatten(picture: Picture, background: str = "white") -> Picture:
    """Compose transparency on a colour, for formats without alpha: convert() alone would show hidden colours."""
    if not picture.has_alpha:
        return picture
    mode, background = "RGB" if picture.mode == "RGBA" else "L", shade(background, picture)

    def on_ground(frame: Image.Image) -> Image.Image:
        ground = Image.new("RGBA", frame.size, background)
        ground.alpha_composite(frame.convert("RGBA"))
        return ground.convert(mode)

    return picture.map(on_ground)


def with_alpha(picture: Picture) -> Picture:
    """Return the picture in a mode that has alpha."""
    if picture.has_alpha:
        return picture
    mode = {"L": "LA", "RGB": "RGBA"}[picture.mode]
    return picture.map(lambda frame: frame.convert(mode))


def with_room_for(color: str, picture: Picture) -> Picture:
    """Return the picture in a mode that can show an opaque colour, `#rrggbb`: grey pixels cannot show red."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return picture if red == green == blue else to_rgb(picture)


def shade(color: str, picture: Picture) -> str:
    """Return an opaque colour, as people name it in sRGB, in the numbers of the picture's profile."""
    if picture.icc is None:
        return color
    point = from_srgb(Image.new("RGBA", (1, 1), color), picture.icc).convert("RGB").tobytes()
    return f"#{point.hex()}"


def to_rgb(picture: Picture) -> Picture:
    """Return grey pixels as sRGB: the profile of grey ones describes no others."""
    if picture.mode not in ("L", "LA"):
        return picture
    mode = "RGBA" if picture.has_alpha else "RGB"
    return to_srgb(picture).map(lambda frame: frame.convert(mode))


def without_grey_profile(picture: Picture) -> Picture:
    """Return grey pixels without a profile, for formats that store them as RGB: it does not describe that."""
    return picture if picture.mode.startswith("RGB") else to_srgb(picture)


def to_srgb(picture: Picture) -> Picture:
    """Return the picture in sRGB, which needs no profile; one without a profile is in it already.

    Relative colorimetric with black point compensation: what sRGB has too stays as it is, what it has not is cut off.
    """
    if picture.icc is None:
        return picture
    grey, alpha = not picture.mode.startswith("RGB"), picture.has_alpha
    pixels = "L" if grey else "RGB"
    transform = _transform(picture.icc, pixels)

    def converted(frame: Image.Image) -> Image.Image:
        found = _applied(frame.convert(pixels) if alpha else frame, transform)
        if grey:
            found = found.convert("L")  # neutral, as grey profiles are
        if alpha:
            found.putalpha(frame.getchannel("A"))
        return found

    return replace(picture.map(converted), icc=None)


def from_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return RGBA pixels in sRGB as RGBA by the profile of a picture that they are to join, RGB or grey.

    Raises nothing: a profile that leads one way alone, as those of scanners do, is taken for sRGB.
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
    found = _applied(image.convert("RGB"), transform).convert("RGB")
    found.putalpha(image.getchannel("A"))
    return found


def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the way from pixels of `mode` to sRGB. Raises PyCMSError or OSError for a profile that has none."""
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), mode, "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    found = ImageCms.applyTransform(image, transform)
    assert found is not None  # noqa: S101 (only in place it is)
    return found


def to_grey(picture: Picture) -> Picture:
    """Return the lightness of the picture (luma of ITU-R BT.601) as L or LA, without a profile."""
    picture = to_srgb(picture)
    if picture.mode in ("L", "LA"):
        return picture
    mode = "LA" if picture.has_alpha else "L"
    return picture.map(lambda frame: frame.convert(mode))


def normalise(image: Image.Image, icc: bytes | None) -> Picture:
    """Return the pixels of an opened image as L, LA, RGB or RGBA, with the profile only where it describes them still.

    CMYK and LAB become sRGB; so do grey pixels with a profile of RGB, and stay grey. A profile that cannot be used, or
    is of another colour space than the pixels, is as good as none.
    """
    image = load(image)
    picture = Picture.still(_in_8_bit(image, icc))
    space = _SPACES.get(icc[16:20]) if icc else None  # its colour space, ICC.1, 7.2.6
    if icc is None or space is None or image.mode in ("CMYK", "LAB") or not _is_usable(icc, space):
        return picture
    if picture.mode.startswith(space):
        return replace(picture, icc=icc)
    if space == "RGB":
        rgb = replace(picture, icc=icc).map(lambda frame: frame.convert("RGBA" if picture.has_alpha else "RGB"))
        return to_srgb(rgb).map(lambda frame: frame.convert(picture.mode))
    if space == "L" and is_neutral(picture.image):  # Pillow opens grey with transparency as RGBA
        return replace(picture, icc=icc).map(lambda frame: frame.convert("LA" if picture.has_alpha else "L"))
    return picture


def is_neutral(image: Image.Image) -> bool:
    """Say whether every pixel of RGB or RGBA is grey."""
    red, green, blue = image.split()[:3]
    return ImageChops.difference(red, green).getbbox() is None and ImageChops.difference(green, blue).getbbox() is None


_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}


@lru_cache(maxsize=8)
def _is_usable(icc: bytes, mode: str) -> bool:
    """Say whether a profile leads from pixels of `mode` to sRGB; to ask costs some 10 ms."""
    try:
        _transform(icc, mode)
    except (ImageCms.PyCMSError, OSError):
        return False
    return True


def _in_8_bit(image: Image.Image, icc: bytes | None) -> Image.Image:
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return from_16_bit(image, transparent)
    if image.mode in ("I", "F"):
        return from_32_bit(image)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")  # while `info` still holds the transparent colour
    adobe = "adobe" in image.info
    image.info.clear()  # encoders write some of it unasked: comments, resolution, transparency of a palette
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "CMYK":
        if image.format in ("JPEG", "MPO") and not adobe:
            image = ImageChops.invert(image)  # Pillow takes all for Adobe's, which are stored inverted
        if icc and icc[16:20] == b"CMYK" and _is_usable(icc, "CMYK"):
            return _applied(image, _transform(icc, "CMYK"))
    return image.convert("L" if image.mode == "1" else "RGB")
