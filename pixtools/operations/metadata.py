"""What a file says of itself: container, camera, exposure, place and time, and all that its EXIF, XMP and IPTC hold.

The first are plain names and units. In `exif`, tags have the names of the standard as Pillow knows them, in snake
case. Whatever is nonsense, a blob, or more than anybody would read, is left out; nothing raises for it.
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

from pixtools.imaging import iptc, metadata_blocks, tiff_tags, xmp
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.formats import HEAD_BYTES, sniff
from pixtools.imaging.header import Limits, inspect
from pixtools.operations.base.kinds import Inspector, Params

_NO_LIMITS = Limits(*3 * (sys.maxsize,))  # what came in was within those of the service
_MAX_TEXT = 2_000  # a longer value is a maker's blob, not something to read
_MAX_ITEMS = 100
_MAX_NUMBERS = 16
_MORE = 0xFFFF  # of a speed: more than its 16 bits hold; the true one stands elsewhere
_TEXTS = (2, 7, 129)  # types whose values are one text of many characters
_MAX_BLOCK = 32_000  # characters of JSON for each of EXIF, XMP and IPTC: results are kept in the database

_BLOBS = {tiff_tags.MAKER_NOTE, 0xC4A5}  # and PrintIM
_USER_COMMENT = 0x9286
_OF_WINDOWS = range(0x9C9B, 0x9CA0)  # title, comment, author, keywords and subject, in UTF-16

_PROGRAMS = {
    1: "manual", 2: "program", 3: "aperture priority", 4: "shutter priority",
    5: "creative", 6: "action", 7: "portrait", 8: "landscape",
}  # fmt: skip
_METERING = {1: "average", 2: "center-weighted", 3: "spot", 4: "multi-spot", 5: "pattern", 6: "partial"}

_Facts = dict[str, Any]


class Metadata(Params):
    pass


def run(data: bytes, params: Metadata) -> _Facts:  # noqa: ARG001
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
        told = metadata_blocks.read(image, data)
    tags = tiff_tags.parse(told.exif) or tiff_tags.Tags("<", {})
    exif = _named(tags, tags.main, ExifTags.TAGS) | _named(tags, tags.exif, ExifTags.TAGS)
    return container | {
        "camera": _with_make(exif.get("make"), exif.get("model")),
        "lens": _with_make(exif.get("lens_make"), exif.get("lens_model")),
        "taken_at": _taken_at(exif),
        "exposure": _exposure(exif),
        "gps": _gps(_named(tags, tags.gps, ExifTags.GPSTAGS)),
        "exif": _within(exif),
        "xmp": _within(_readable(xmp.properties(told.xmp))),
        "iptc": _within(_readable(iptc.texts(told.iptc))),
    }


def _named(tags: tiff_tags.Tags, directory: tiff_tags.Directory, names: dict[int, str]) -> _Facts:
    plain = {
        xmp.plain_name(names[tag]): _plain(tags, tag, entry)
        for tag, entry in directory.items()
        if tag in names and tag not in _BLOBS
    }
    return {name: value for name, value in plain.items() if value is not None}


def _plain(tags: tiff_tags.Tags, tag: int, entry: tiff_tags.Entry) -> Any:
    """Return a value as JSON can carry it, or None for what is nonsense or a blob."""
    if tag in _OF_WINDOWS:
        return _text(bytes(entry.value).decode("utf-16-le", "replace").split("\0", 1)[0])
    if tag == _USER_COMMENT:
        return _comment(bytes(entry.value), tags.order)
    if entry.type not in _TEXTS and entry.count > _MAX_NUMBERS:
        return None
    match tags.value(entry):
        case str(text):
            return _text(text)
        case bytes(raw):
            # One byte of no declared type is an enumeration, more of them are text.
            return raw[0] if len(raw) == 1 else _text(raw.rstrip(b"\0").decode("ascii", "replace"))
        case numbers:
            found = [_number(number) for number in numbers]
            return None if None in found else found[0] if len(found) == 1 else found


def _number(number: float) -> float | None:
    if isinstance(number, int):
        return number
    return round(number, 8) if math.isfinite(number) else None


def _text(text: str) -> str | None:
    text = text.strip()
    readable = all(char.isprintable() or char in "\n\r\t" for char in text) and "\ufffd" not in text
    return text if readable and 0 < len(text) <= _MAX_TEXT else None


def _comment(raw: bytes, order: str) -> str | None:
    """Return a comment of the user without the name of its encoding, which takes eight bytes (Exif 3.0, 4.6.6.3)."""
    encoding = {b"ASCII": "ascii", b"UNICODE": "utf-16-le" if order == "<" else "utf-16-be", b"": "utf-8"}
    name = encoding.get(raw[:8].rstrip(b"\0"))
    return _text(raw[8:].decode(name, "replace").split("\0", 1)[0]) if name else None


def _with_make(make: Any, model: Any) -> str | None:
    """Name a maker once: many repeat themselves, as in "Canon", "Canon EOS 40D"."""
    make, model = (value if isinstance(value, str) else "" for value in (make, model))
    return (model if model.startswith(make) else f"{make} {model}").strip() or None


def _taken_at(exif: _Facts) -> str | None:
    """Return when the picture was taken, by ISO 8601; with an offset from UTC only if the camera knew it."""
    for kind in ("original", "digitized"):
        moment = _moment(exif.get(f"date_time_{kind}"))
        if moment:
            fraction, offset = exif.get(f"subsec_time_{kind}"), exif.get(f"offset_time_{kind}")
            moment += f".{fraction}" if isinstance(fraction, str) and re.fullmatch("[0-9]{1,9}", fraction) else ""
            if isinstance(offset, str) and re.fullmatch("[+-](0[0-9]|1[0-4]):[0-5][0-9]", offset):
                moment += offset
            return moment
    return None


def _moment(text: Any) -> str | None:
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 (a camera's clock has no zone)
    except (TypeError, ValueError):
        return None


def _exposure(exif: _Facts) -> _Facts:
    flash = exif.get("flash")
    facts = {
        "time_s": _positive(exif.get("exposure_time")),
        "f_number": _positive(exif.get("f_number")),
        "iso": _iso(exif),
        "focal_length_mm": _positive(exif.get("focal_length")),
        "focal_length_35mm_mm": _positive(exif.get("focal_length_in35mm_film")),
        "bias_ev": _single(exif.get("exposure_bias_value")),
        "program": _worded(_PROGRAMS, exif.get("exposure_program")),
        "metering": _worded(_METERING, exif.get("metering_mode")),
        "flash": bool(flash & 1) if isinstance(flash, int) else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _iso(exif: _Facts) -> float | None:
    speed = exif.get("iso_speed_ratings")
    speed = speed[0] if isinstance(speed, list) else speed
    if speed == _MORE:
        speed = exif.get("recommended_exposure_index") or exif.get("iso_speed")
    return _positive(speed)


def _worded(words: dict[int, str], value: Any) -> str | None:
    return words.get(value) if isinstance(value, int) else None


def _single(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _positive(value: Any) -> float | None:
    number = _single(value)
    return number if number is not None and number > 0 else None


def _gps(tags: _Facts) -> _Facts | None:
    """Return degrees (north and east positive, directions clockwise from north), metres, and UTC; None for no place."""
    latitude = _degrees(tags.get("gps_latitude"), tags.get("gps_latitude_ref"), "S", 90)
    longitude = _degrees(tags.get("gps_longitude"), tags.get("gps_longitude_ref"), "W", 180)
    if latitude is None or longitude is None:
        return None
    altitude, direction = _single(tags.get("gps_altitude")), _single(tags.get("gps_img_direction"))
    below_sea = tags.get("gps_altitude_ref") == 1
    facts = {
        "latitude": latitude,
        "longitude": longitude,
        "altitude_m": -altitude if altitude is not None and below_sea else altitude,
        "direction": direction if direction is not None and 0 <= direction <= 360 else None,  # noqa: PLR2004
        "error_m": _positive(tags.get("gpsh_positioning_error")),
        "taken_at": _satellite_time(tags.get("gps_date_stamp"), tags.get("gps_time_stamp")),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _degrees(value: Any, ref: Any, negative: str, most: int) -> float | None:
    if not isinstance(value, list) or len(value) != 3:  # noqa: PLR2004 (degrees, minutes, seconds)
        return None
    angle = sum(float(part) / 60**place for place, part in enumerate(value))
    if abs(angle) > most:
        return None
    return round(float(-angle if ref == negative else angle), 7)


def _satellite_time(date: Any, time: Any) -> str | None:
    if not isinstance(date, str) or not isinstance(time, list) or len(time) != 3:  # noqa: PLR2004
        return None
    try:
        day = datetime.strptime(date, "%Y:%m:%d").replace(tzinfo=UTC)
        hour, minute, second = (float(part) for part in time)
        moment = day.replace(hour=int(hour), minute=int(minute), second=int(second))
    except (ValueError, OverflowError):  # hours of 32 bits are none for a clock
        return None
    return moment.isoformat().replace("+00:00", "Z")


def _profile_name(icc: bytes | None) -> str | None:
    if not icc:
        return None
    try:
        return _text(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))))
    except (ImageCms.PyCMSError, OSError):
        return None


def _readable(value: Any) -> Any:
    """Return text, lists and structures without what is too long to be read."""
    match value:
        case str():
            return _text(value)
        case list():
            items = [_readable(item) for item in value[:_MAX_ITEMS]]
            return [item for item in items if item is not None] or None
        case dict():
            facts = {name: _readable(inner) for name, inner in value.items()}
            return {name: inner for name, inner in facts.items() if inner is not None}
        case _:
            return None


def _within(facts: _Facts) -> _Facts:
    """Return the facts from the first on, as far as they fit."""
    found, left = {}, _MAX_BLOCK
    for name, value in facts.items():
        left -= len(name) + len(json.dumps(value))
        if left < 0:
            break
        found[name] = value
    return found


METADATA = Inspector(
    name="metadata",
    title="Metadata",
    summary="Reads camera, exposure, place and colour profile.",
    version=2,
    params=Metadata,
    run=run,
)
