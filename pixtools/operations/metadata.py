"""Metadata: read the values that an image file contains in addition to its pixels.

The result describes the file, the camera, the exposure, the location and the time. The name of a value contains the
unit, such as `focal_length_mm`. The objects `exif` (CIPA DC-008), `xmp` (ISO 16684-1) and `iptc` (IPTC-IIM) contain the
values of these metadata blocks, up to a size limit. Each tag in `exif` has Pillow's name of the tag, in snake case.
Invalid, binary and very long values are left out, and cause no error.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from datetime import UTC, datetime
from typing import Any

from PIL import ExifTags, Image, ImageCms
from pydantic import ConfigDict

from pixtools.imaging import iptc, metadata_blocks, tiff_tags, xmp
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.header import inspect
from pixtools.limits import Limits
from pixtools.operations.base.kinds import Inspector
from pixtools.operations.base.params import Params

_NO_LIMITS = Limits(*3 * (sys.maxsize,))  # not checked again: the service did this when it accepted the file
_MAX_TEXT = 2_000  # characters; longer values are data of the camera's maker, not text
_MAX_ITEMS = 100  # in a list; further items are left out
_MAX_NUMBERS = 16  # in one EXIF value; values with more numbers are left out
_MAX_BLOCK = 32_000  # characters of JSON in each block; the limit exists because the database stores the results

_SPEED_OVERFLOW = 0xFFFF  # means: the ISO speed does not fit this 16-bit tag, so another tag contains the speed
_TEXT_TYPES = (2, 7, 129)  # TIFF types ASCII, UNDEFINED and UTF-8; with these types, `count` is a number of bytes
_BINARY_TAGS = {tiff_tags.MAKER_NOTE, 0xC4A5}  # 0xC4A5 is PrintImageMatching
_USER_COMMENT = 0x9286
_WINDOWS_TAGS = range(0x9C9B, 0x9CA0)  # XPTitle, XPComment, XPAuthor, XPKeywords and XPSubject, in UTF-16

_EXPOSURE_PROGRAMS = {
    1: "manual", 2: "program", 3: "aperture priority", 4: "shutter priority",
    5: "creative", 6: "action", 7: "portrait", 8: "landscape",
}  # fmt: skip
_METERING_MODES = {1: "average", 2: "center-weighted", 3: "spot", 4: "multi-spot", 5: "pattern", 6: "partial"}

_Values = dict[str, Any]


class MetadataParams(Params):
    """Metadata has no parameters."""

    model_config = ConfigDict(title="Metadata")


def run(data: bytes, params: MetadataParams) -> _Values:  # noqa: ARG001
    """Return the metadata of an image file as JSON data. Raises UnsupportedType or CorruptImage."""
    header = inspect(io.BytesIO(data), _NO_LIMITS)
    with decoding(), Image.open(io.BytesIO(data), formats=[sniff(data[:HEAD_BYTES])]) as image:
        container = {
            "media_type": header.media_type,
            "width": header.width,
            "height": header.height,
            "mode": image.mode,
            "frames": header.frames,
            "bytes": len(data),
            "icc_profile": _profile_name(image.info.get("icc_profile")),
        }
        blocks = metadata_blocks.read(image, data)
    tags = tiff_tags.parse(blocks.exif) or tiff_tags.Tags("<", {})
    exif = _named(tags, tags.main, ExifTags.TAGS) | _named(tags, tags.exif, ExifTags.TAGS)
    return container | {
        "camera": _full_name(exif.get("make"), exif.get("model")),
        "lens": _full_name(exif.get("lens_make"), exif.get("lens_model")),
        "taken_at": _taken_at(exif),
        "exposure": _exposure(exif),
        "gps": _gps(_named(tags, tags.gps, ExifTags.GPSTAGS)),
        "exif": _up_to_limit(exif),
        "xmp": _up_to_limit(_readable(xmp.properties(blocks.xmp))),
        "iptc": _up_to_limit(_readable(iptc.texts(blocks.iptc))),
    }


def _named(tags: tiff_tags.Tags, directory: tiff_tags.Directory, names: dict[int, str]) -> _Values:
    """Return the values of a directory by name. Tags without a name, and invalid or binary values, are left out."""
    values = {
        xmp.plain_name(names[tag]): _plain(tags, tag, entry)
        for tag, entry in directory.items()
        if tag in names and tag not in _BINARY_TAGS
    }
    return _without_none(values)


def _without_none(values: _Values) -> _Values:
    return {name: value for name, value in values.items() if value is not None}


def _plain(tags: tiff_tags.Tags, tag: int, entry: tiff_tags.TagEntry) -> Any:
    """Return a value as JSON data, or None if it is invalid or binary."""
    if tag in _WINDOWS_TAGS:
        return _text(bytes(entry.value).decode("utf-16-le", "replace").split("\0", 1)[0])
    if tag == _USER_COMMENT:
        return _comment(bytes(entry.value), tags.order)
    if entry.type not in _TEXT_TYPES and entry.count > _MAX_NUMBERS:
        return None
    match tags.value(entry):
        case str(text):
            return _text(text)
        case bytes(raw):
            # In type UNDEFINED, a single byte is a value of an enumeration, and several bytes are text.
            return raw[0] if len(raw) == 1 else _text(raw.rstrip(b"\0").decode("ascii", "replace"))
        case numbers:
            return _one_or_all([_finite(number) for number in numbers])


def _one_or_all(numbers: list[float | None]) -> float | list[float | None] | None:
    """Return a single number, or a list of several numbers, or None if a number is invalid."""
    if None in numbers:
        return None
    return numbers[0] if len(numbers) == 1 else numbers


def _finite(number: float) -> float | None:
    if isinstance(number, int):
        return number
    return round(number, 8) if math.isfinite(number) else None


def _text(text: str) -> str | None:
    text = text.strip()
    readable = all(char.isprintable() or char in "\n\r\t" for char in text) and "\ufffd" not in text
    return text if readable and 0 < len(text) <= _MAX_TEXT else None


def _comment(raw: bytes, order: str) -> str | None:
    """Decode a UserComment. The first eight bytes are the name of the encoding (Exif 3.0, 4.6.6.3)."""
    encodings = {b"ASCII": "ascii", b"UNICODE": "utf-16-le" if order == "<" else "utf-16-be", b"": "utf-8"}
    encoding = encodings.get(raw[:8].rstrip(b"\0"))
    return _text(raw[8:].decode(encoding, "replace").split("\0", 1)[0]) if encoding else None


def _full_name(make: Any, model: Any) -> str | None:
    """Join maker and model. If the model begins with the maker ("Canon", "Canon EOS 40D"), return only the model."""
    make, model = (value if isinstance(value, str) else "" for value in (make, model))
    return (model if model.startswith(make) else f"{make} {model}").strip() or None


def _taken_at(exif: _Values) -> str | None:
    """Return when the picture was taken (ISO 8601). The text ends with the offset from UTC if the file has one."""
    for kind in ("original", "digitized"):
        time = _date_time(exif.get(f"date_time_{kind}"))
        if time:
            fraction, offset = exif.get(f"subsec_time_{kind}"), exif.get(f"offset_time_{kind}")
            time += f".{fraction}" if isinstance(fraction, str) and re.fullmatch("[0-9]{1,9}", fraction) else ""
            if isinstance(offset, str) and re.fullmatch("[+-](0[0-9]|1[0-4]):[0-5][0-9]", offset):
                time += offset
            return time
    return None


def _date_time(text: Any) -> str | None:
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 (EXIF times have no zone)
    except (TypeError, ValueError):
        return None


def _exposure(exif: _Values) -> _Values:
    flash = exif.get("flash")
    return _without_none(
        {
            "time_s": _positive(exif.get("exposure_time")),
            "f_number": _positive(exif.get("f_number")),
            "iso": _iso(exif),
            "focal_length_mm": _positive(exif.get("focal_length")),
            "focal_length_35mm_mm": _positive(exif.get("focal_length_in35mm_film")),
            "bias_ev": _single_number(exif.get("exposure_bias_value")),
            "program": _enum_name(_EXPOSURE_PROGRAMS, exif.get("exposure_program")),
            "metering": _enum_name(_METERING_MODES, exif.get("metering_mode")),
            "flash": bool(flash & 1) if isinstance(flash, int) else None,  # bit 0: the flash fired
        }
    )


def _iso(exif: _Values) -> float | None:
    speed = exif.get("iso_speed_ratings")
    speed = speed[0] if isinstance(speed, list) else speed
    if speed == _SPEED_OVERFLOW:
        speed = exif.get("recommended_exposure_index") or exif.get("iso_speed")
    return _positive(speed)


def _enum_name(names: dict[int, str], value: Any) -> str | None:
    return names.get(value) if isinstance(value, int) else None


def _single_number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _positive(value: Any) -> float | None:
    number = _single_number(value)
    return number if number is not None and number > 0 else None


def _gps(tags: _Values) -> _Values | None:
    """Return the location, or None if latitude or longitude is missing or invalid.

    Angles are in degrees. North and east are positive. Directions are measured clockwise from north. Lengths are in
    metres. The time is in UTC.
    """
    latitude = _degrees(tags.get("gps_latitude"), tags.get("gps_latitude_ref"), "S", 90)
    longitude = _degrees(tags.get("gps_longitude"), tags.get("gps_longitude_ref"), "W", 180)
    if latitude is None or longitude is None:
        return None
    altitude, direction = _single_number(tags.get("gps_altitude")), _single_number(tags.get("gps_img_direction"))
    below_sea = tags.get("gps_altitude_ref") == 1
    return _without_none(
        {
            "latitude": latitude,
            "longitude": longitude,
            "altitude_m": -altitude if altitude is not None and below_sea else altitude,
            "direction": direction if direction is not None and 0 <= direction <= 360 else None,  # noqa: PLR2004
            "error_m": _positive(tags.get("gpsh_positioning_error")),
            "taken_at": _satellite_time(tags.get("gps_date_stamp"), tags.get("gps_time_stamp")),
        }
    )


def _degrees(value: Any, reference: Any, negative: str, largest: int) -> float | None:
    """Return degrees from a list of degrees, minutes and seconds. Change the sign if `reference` equals `negative`."""
    if not isinstance(value, list) or len(value) != 3:  # noqa: PLR2004 (degrees, minutes, seconds)
        return None
    angle = sum(float(number) / 60**place for place, number in enumerate(value))
    if abs(angle) > largest:
        return None
    return round(float(-angle if reference == negative else angle), 7)


def _satellite_time(date: Any, time: Any) -> str | None:
    """Return the GPS time (ISO 8601, UTC) from a date such as "2026:02:03" and a list of hours, minutes and seconds."""
    if not isinstance(date, str) or not isinstance(time, list) or len(time) != 3:  # noqa: PLR2004
        return None
    try:
        day = datetime.strptime(date, "%Y:%m:%d").replace(tzinfo=UTC)
        hour, minute, second = (float(number) for number in time)
        full = day.replace(hour=int(hour), minute=int(minute), second=int(second))
    except (ValueError, OverflowError):  # out of range: a file may contain any 32-bit numbers
        return None
    return full.isoformat().replace("+00:00", "Z")


def _profile_name(icc: bytes | None) -> str | None:
    if not icc:
        return None
    try:
        return _text(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))))
    except (ImageCms.PyCMSError, OSError):
        return None


def _readable(value: Any) -> Any:
    """Return a text, list or object without unreadable texts. Of a list, use only the first `_MAX_ITEMS` items.

    Return None for an unreadable text, for a list without readable items, and for a value of another type.
    """
    match value:
        case str():
            return _text(value)
        case list():
            items = [_readable(item) for item in value[:_MAX_ITEMS]]
            return [item for item in items if item is not None] or None
        case dict():
            return _without_none({name: _readable(inner) for name, inner in value.items()})
        case _:
            return None


def _up_to_limit(values: _Values) -> _Values:
    """Return the first values that together fit into `_MAX_BLOCK` characters of JSON."""
    fitting, left = {}, _MAX_BLOCK
    for name, value in values.items():
        left -= len(name) + len(json.dumps(value))
        if left < 0:
            break
        fitting[name] = value
    return fitting


METADATA = Inspector(
    name="metadata",
    title="Metadata",
    summary="Reads the camera, the exposure, the location and the colour profile.",
    version=2,
    params=MetadataParams,
    run=run,
)
