"""What the numbers of a picture mean: profiles, CMYK, 16 bit, transparency."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageCms, ImageColor

from pixtools.imaging.picture import Picture


def flatten(picture: Picture, background: str = "white") -> Picture:
    """Compose transparency on a colour, for formats without alpha: convert() alone would show hidden colours."""
    if not picture.has_alpha:
        return picture
    mode = "RGB" if picture.mode == "RGBA" else "L"

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


def to_rgb(picture: Picture) -> Picture:
    """Return grey pixels as sRGB: the profile of grey ones describes no others."""
    if picture.mode not in ("L", "LA"):
        return picture
    mode = "RGBA" if picture.has_alpha else "RGB"
    return to_srgb(picture).map(lambda frame: frame.convert(mode))


def to_srgb(picture: Picture) -> Picture:
    """Return the picture in sRGB, which needs no profile; one without a profile is in it already.

    Raises nothing: a profile that cannot be used is as good as none.
    """
    if picture.icc is None:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
        grey = not picture.mode.startswith("RGB")
        alpha = picture.has_alpha
        pixels = "L" if grey else "RGB"
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), pixels, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError):
        return replace(picture, icc=None)

    def converted(frame: Image.Image) -> Image.Image:
        found = ImageCms.applyTransform(frame.convert(pixels) if alpha else frame, transform)
        assert found is not None  # noqa: S101 (only in place it is)
        if grey:
            found = found.convert("L")  # neutral, as grey profiles are
        if alpha:
            found.putalpha(frame.getchannel("A"))
        return found

    return replace(picture.map(converted), icc=None)


def from_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return RGBA pixels in sRGB as RGBA by the profile of a picture that they are to join, RGB or grey.

    Raises nothing: a profile that cannot be used is as good as none.
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
    found = ImageCms.applyTransform(image.convert("RGB"), transform)
    assert found is not None  # noqa: S101 (only in place it is)
    found = found.convert("RGB")
    found.putalpha(image.getchannel("A"))
    return found


def to_grey(picture: Picture) -> Picture:
    """Return the lightness of the picture (luma of ITU-R BT.601) as L or LA, without a profile."""
    picture = to_srgb(picture)
    if picture.mode in ("L", "LA"):
        return picture
    mode = "LA" if picture.has_alpha else "L"
    return picture.map(lambda frame: frame.convert(mode))


def normalise(image: Image.Image, icc: bytes | None) -> Picture:
    """Return the pixels as L, LA, RGB or RGBA, with the profile only where it still describes them."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, transparent)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")  # while `info` still holds the transparent colour
    image.info.clear()  # encoders write some of it unasked: comments, resolution, transparency of a palette
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return Picture.still(image, icc if _describes(icc, image.mode) else None)
    if image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        # "I" is how Pillow opens 16-bit grey of some files; "F" is a TIFF in 0..1 or in any unit: span it.
        top = 65535.0 if image.mode == "I" and grey.max() <= 65535 else max(float(grey.max()), 1.0)  # noqa: PLR2004
        return Picture.still(Image.fromarray((grey.clip(0, top) / top * 255).round().astype(np.uint8)), None)
    if image.mode == "CMYK":
        return Picture.still(_from_cmyk(image, icc), None)
    mode = "L" if image.mode == "1" else "RGB"
    return Picture.still(image.convert(mode), icc if _describes(icc, mode) else None)


def _from_16_bit(image: Image.Image, transparent: int | None) -> Picture:
    """Scale grey of 16 bits to 8: Pillow's own conversion clips it to white."""
    grey = np.asarray(image, dtype=np.uint32)  # (H, W)
    scaled = ((grey + 128) // 257).astype(np.uint8)
    if transparent is None:
        return Picture.still(Image.fromarray(scaled), None)
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)
    return Picture.still(Image.fromarray(np.stack([scaled, alpha], axis=-1)), None)  # (H, W, 2): LA


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is no profile: convert as if there were none
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def _describes(icc: bytes | None, mode: str) -> bool:
    """Say whether the profile's colour space (bytes 16 to 20 of its header, ICC.1) is that of `mode`."""
    return icc is not None and icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")
