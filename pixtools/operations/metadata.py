"""What a file says of itself: container, upright dimensions, EXIF with its sub-IFDs, GPS in degrees, the ICC profile.

Tag names are those of Exif 2.32 as Pillow has them, in snake case; rationals become floats, GPS decimal degrees.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

from PIL import ExifTags, Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from pixtools.imaging.formats import HEAD_BYTES, MEDIA_TYPES, sniff
from pixtools.imaging.guard import decoding
from pixtools.imaging.orientation import exif, upright_size
from pixtools.operations.base import Inspector, Params

_MAX_TEXT = 2_000  # a longer value is a maker's blob, not something to read
_IN_OTHER_PLACES = {"ExifOffset", "GPSInfo", "MakerNote", "UserComment", "PrintImageMatching", "XMLPacket"}


class Metadata(Params):
    pass


def run(data: bytes, params: Metadata) -> dict[str, Any]:  # noqa: ARG001
    kind = sniff(data[:HEAD_BYTES])
    with decoding(), Image.open(io.BytesIO(data), formats=[kind]) as image:
        tags = exif(image)
        facts: dict[str, Any] = {
            "media_type": MEDIA_TYPES[kind],
            "width": upright_size(image)[0],
            "height": upright_size(image)[1],
            "mode": image.mode,
            "frames": int(getattr(image, "n_frames", 1)),
            "bytes": len(data),
            "icc_profile": _profile_name(image.info.get("icc_profile")),
        }
        named = _named(tags, ExifTags.TAGS) | _named(tags.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS)
        make, model = str(named.get("make", "")), str(named.get("model", ""))
        # Many makers repeat themselves: "Canon", "Canon EOS 40D".
        camera = model if model.startswith(make) else f"{make} {model}"
        facts["camera"] = camera.strip() or None
        facts["exif"] = named
        facts["gps"] = _gps(tags.get_ifd(ExifTags.IFD.GPSInfo))
    return facts


def _named(ifd: Any, names: dict[int, str]) -> dict[str, Any]:
    pairs = ((names.get(tag), value) for tag, value in ifd.items())
    plain = {_snake(name): _plain(value) for name, value in pairs if name and name not in _IN_OTHER_PLACES}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return an EXIF value as JSON can carry it, or None for what is nonsense or a blob."""
    match value:
        case IFDRational() | float():
            number = float(value) if value == value else math.nan  # noqa: PLR0124 (0/0 is a NaN here)
            return round(number, 8) if math.isfinite(number) else None
        case bool() | int():
            return int(value)
        case bytes():
            text = value.rstrip(b"\0")
            return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() else None
        case str():
            text_ = value.split("\0", 1)[0].strip()
            return text_ if 0 < len(text_) <= _MAX_TEXT else None
        case tuple() | list():
            items = [_plain(item) for item in value]
            return items if len(items) <= 16 and None not in items else None  # noqa: PLR2004
        case _:
            return None


def _gps(ifd: dict[int, Any]) -> dict[str, Any] | None:
    """Return latitude and longitude in degrees (north and east positive) and altitude in metres."""
    tags = _named(ifd, ExifTags.GPSTAGS)
    place = {
        "latitude": _degrees(tags.get("gps_latitude"), tags.get("gps_latitude_ref"), "S", 90),
        "longitude": _degrees(tags.get("gps_longitude"), tags.get("gps_longitude_ref"), "W", 180),
    }
    if None in place.values():
        return None
    altitude = tags.get("gps_altitude")
    if isinstance(altitude, float):
        place["altitude"] = -altitude if ifd.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01") else altitude
    return place


def _degrees(value: Any, ref: Any, negative: str, most: int) -> float | None:
    if not isinstance(value, list) or len(value) != 3:  # noqa: PLR2004 (degrees, minutes, seconds)
        return None
    angle = sum(float(part) / 60**place for place, part in enumerate(value))
    if angle > most:
        return None
    return round(float(-angle if ref == negative else angle), 7)


def _profile_name(icc: bytes | None) -> str | None:
    if not icc:
        return None
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except (ImageCms.PyCMSError, OSError):
        return None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


METADATA = Inspector(
    name="metadata",
    title="Metadata",
    summary="Reads camera, exposure, place and colour profile.",
    version=1,
    params=Metadata,
    run=run,
)
