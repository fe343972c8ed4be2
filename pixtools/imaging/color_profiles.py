"""Reads the colour profile of a file, or makes a profile from other declarations in the file.

A profile is made from one of these declarations:

- code points of ITU-T H.273, in the `nclx` box of AVIF and HEIC or in the cICP chunk of PNG
- the gAMA and cHRM chunks of PNG
- the Exif tag that declares Adobe RGB

The code points may declare PQ or HLG, which are tone curves for HDR. Then the profile maps the reference white of the
curve to white. Brighter values are clipped, not tone-mapped. Code points that occur only inside the AV1 stream of an
AVIF are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtools.imaging.codec_errors import DECODER_ERRORS
from pixtools.imaging.icc_filter import filter_profile
from pixtools.imaging.png_chunks import chunks

Chromaticities = tuple[float, ...]
"""Eight numbers: x and y (CIE 1931) of white, of red, of green and of blue."""

ToneCurve = float | Callable[[NDArray[Any]], NDArray[Any]] | None
"""A curve from signal to light, both from 0 to 1: a gamma, a function, or None, which means the curve of sRGB."""

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {  # by code point (H.273, table 2); all other code points count as sRGB
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
# By code point (H.273, table 3). All other code points, such as those of video curves, count as the curve of sRGB, as
# in browsers.
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18
_EXIF_INTEROPERABILITY = 0xA005


def read_profile(image: Image.Image, format_name: str, data: bytes) -> bytes | None:
    """Return the ICC profile of `image`, or None for sRGB. `image` was opened from `data`, and is not loaded yet.

    Raises one of `DECODER_ERRORS` or CorruptImage if the chunks of a PNG are damaged.
    """
    if format_name == "PNG":
        return _of_png(image, data)
    embedded: bytes | None = image.info.get("icc_profile")
    if embedded:
        return filter_profile(embedded)
    match format_name:
        case "AVIF":
            return _of_code_points(*_nclx(data))
        case "HEIF":
            nclx = image.info.get("nclx_profile") or {}
            return _of_code_points(nclx.get("color_primaries", 1), nclx.get("transfer_characteristics", 13))
        case "JPEG":
            return matrix_profile(_ADOBE_RGB, 563 / 256) if _is_dcf_adobe_rgb(image) else None
    return None


def _is_dcf_adobe_rgb(image: Image.Image) -> bool:
    """Return whether Exif declares Adobe RGB with the value R03 of an interoperability tag.

    Many cameras write this value instead of a profile (DCF 2.0).
    """
    try:
        return image.getexif().get_ifd(_EXIF_INTEROPERABILITY).get(1) == "R03"
    except DECODER_ERRORS:
        return False  # damaged tags do not make the picture unreadable


def _of_png(image: Image.Image, data: bytes) -> bytes | None:
    """Return the profile of a PNG, or None for sRGB.

    The file may have several of these chunks. The first in this order counts: cICP, iCCP, sRGB, gAMA with cHRM (PNG 3,
    4.3).
    """
    for chunk_type, body in chunks(data):
        if chunk_type == b"cICP" and len(body) == 4:  # noqa: PLR2004
            return _of_code_points(body[0], body[1])
        if chunk_type == b"IDAT":
            break
    embedded: bytes | None = image.info.get("icc_profile")
    if embedded or "srgb" in image.info:
        return filter_profile(embedded or b"")
    gamma: float = image.info.get("gamma", 1 / 2.2)
    chromaticities = image.info.get("chromaticity", _SRGB)
    has_srgb_gamma = abs(gamma - 1 / 2.2) < 0.01  # noqa: PLR2004 (the PNG specification writes sRGB as 1 / 2.2)
    if has_srgb_gamma and np.allclose(chromaticities, _SRGB, atol=0.002):
        return None
    try:
        return matrix_profile(chromaticities, None if has_srgb_gamma else 1 / gamma)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None  # the numbers describe no possible colours, so they are ignored


def _of_code_points(primaries: int, transfer: int) -> bytes | None:
    chromaticities = _PRIMARIES.get(primaries, _SRGB)
    if transfer in (_PQ, _HLG):
        return matrix_profile(chromaticities, _pq if transfer == _PQ else _hlg)
    gamma = _GAMMAS.get(transfer)
    return None if chromaticities == _SRGB and gamma is None else matrix_profile(chromaticities, gamma)


def _nclx(data: bytes) -> tuple[int, int]:
    """Return the code points of the primaries and of the transfer curve from the first `nclx` property of an AVIF."""
    for meta in _boxes(data, 0, len(data), b"meta"):
        for properties in _boxes(data, meta[0] + 4, meta[1], b"iprp"):
            for container in _boxes(data, *properties, b"ipco"):
                for start, end in _boxes(data, *container, b"colr"):
                    if data[start : start + 4] == b"nclx" and end - start >= 8:  # noqa: PLR2004
                        return struct.unpack_from(">HH", data, start + 4)
    return 1, 13  # sRGB


def _boxes(data: bytes, start: int, end: int, box_type: bytes) -> list[tuple[int, int]]:
    """Return the start and the end of the content of each box of `box_type` between `start` and `end`."""
    contents = []
    while start + 8 <= end:
        size, header_size = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, header_size = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else min(start + size, end)
        if data[start + 4 : start + 8] == box_type:
            contents.append((start + header_size, stop))
        start = max(stop, start + 8)
    return contents


@lru_cache(maxsize=16)
def matrix_profile(chromaticities: Chromaticities, curve: ToneCurve) -> bytes:
    """Return an RGB profile (ICC version 4.3) with these primaries, and with one tone curve for all channels.

    Raises ArithmeticError, ValueError, LinAlgError or struct.error if the numbers describe no possible colours.
    """
    to_d50 = _adaptation(chromaticities[:2])
    # The columns are the XYZ values of the primaries. They are scaled so that their sum is the XYZ value of white.
    primaries = np.stack([_xyz(chromaticities[at : at + 2]) for at in (2, 4, 6)], axis=1)  # (3, 3)
    primaries = to_d50 @ (primaries * np.linalg.solve(primaries, _xyz(chromaticities[:2])))
    tone = _curve(curve)
    tags = {
        b"desc": _text("PixTools: as the file says"),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(to_d50.ravel()),
        **{name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(primaries[:, at]) for at, name in enumerate((b"r", b"g", b"b"))},
        **{name + b"TRC": tone for name in (b"r", b"g", b"b")},
    }
    body_start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, body_start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = body_start + len(body)
    header = struct.pack(
        ">I4xI4s4s4s6H4s28x", size, 0x04300000, b"mntr", b"RGB ", b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp"
    ) + _fixed(_D50)  # ICC.1:2010, 7.2
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _xyz(xy: Chromaticities) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: Chromaticities) -> NDArray[np.float64]:
    """Return the Bradford matrix (3, 3) that adapts colours from `white` to D50, the white of ICC profiles."""
    ratio = (_BRADFORD @ _D50) / (_BRADFORD @ _xyz(white))
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD
    return adapted


def _curve(curve: ToneCurve) -> bytes:
    """Return a tone curve as the content of an ICC tag."""
    if curve is None:
        return b"para\0\0\0\0\0\3\0\0" + _fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    if callable(curve):
        values = curve(np.linspace(0, 1, 1024)).clip(0, 1) * 65535
        return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.round().astype(">u2").tobytes()
    return b"para\0\0\0\0\0\0\0\0" + _fixed([curve])


def _pq(signal: NDArray[Any]) -> NDArray[Any]:
    """Turn signal values between 0 and 1 into linear light, with the PQ curve of SMPTE ST 2084.

    The result 1 is the reference white, 203 cd/m² (ITU-R BT.2408). Brighter light gives results greater than 1.
    """
    root = signal ** (1 / 78.84375)
    return 10_000 / 203 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def _hlg(signal: NDArray[Any]) -> NDArray[Any]:
    """Turn signal values between 0 and 1 into linear light, with the HLG curve of ITU-R BT.2100.

    The signal 0.75 is the reference white and gives the result 1. The gamma of the display, 1.2, is applied to each
    channel separately.
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)  # noqa: PLR2004
    display: NDArray[Any] = (scene / ((np.exp((0.75 - c) / a) + b) / 12)) ** 1.2
    return display


def _fixed(values: Any) -> bytes:
    """Encode numbers as s15Fixed16, the fixed-point numbers of ICC profiles."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _text(text: str) -> bytes:
    units = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(units), 28) + units
