"""The colour profile of a file: the one that it carries, or one made of what it says of its colours otherwise.

Profiles are made for code points of ITU-T H.273 (AVIF and HEIC in their `nclx`, PNG in its cICP), for gAMA and cHRM of
a PNG, and for Exif's way to say Adobe RGB. PQ and HLG become curves that put their reference white at white: what is
brighter is cut off, not tone-mapped. Not read: what an AVIF says inside of its AV1 stream alone.
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
from pixtools.imaging.icc_filter import essential
from pixtools.imaging.png_chunks import chunks

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {  # H.273, table 2; 1 and all that is not here: sRGB
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # H.273, table 3; video's curves are shown as sRGB's, as browsers do
_PQ, _HLG = 16, 18
_EXIF_INTEROPERABILITY = 0xA005


def profile(image: Image.Image, kind: str, data: bytes) -> bytes | None:
    """Return the ICC profile of an opened image, None for sRGB."""
    if kind == "PNG":
        return _of_png(image, data)
    carried: bytes | None = image.info.get("icc_profile")
    if carried:
        return essential(carried)
    match kind:
        case "AVIF":
            return _of_code_points(*_nclx(data))
        case "HEIF":
            found = image.info.get("nclx_profile") or {}
            return _of_code_points(found.get("color_primaries", 1), found.get("transfer_characteristics", 13))
        case "JPEG":
            return matrix_profile(_ADOBE_RGB, 563 / 256) if _is_dcf_adobe_rgb(image) else None
    return None


def _is_dcf_adobe_rgb(image: Image.Image) -> bool:
    """Say whether a camera was set to Adobe RGB, which many tell by this tag alone (DCF 2.0)."""
    try:
        return image.getexif().get_ifd(_EXIF_INTEROPERABILITY).get(1) == "R03"
    except DECODER_ERRORS:
        return False  # tags may be damaged where the picture is not


def _of_png(image: Image.Image, data: bytes) -> bytes | None:
    """Return what holds for a PNG: cICP before iCCP before sRGB before gAMA and cHRM (PNG 3, 4.3)."""
    for kind, body in chunks(data):
        if kind == b"cICP" and len(body) == 4:  # noqa: PLR2004
            return _of_code_points(body[0], body[1])
        if kind == b"IDAT":
            break
    carried: bytes | None = image.info.get("icc_profile")
    if carried or "srgb" in image.info:
        return essential(carried or b"")
    gamma: float = image.info.get("gamma", 1 / 2.2)
    whites = image.info.get("chromaticity", _SRGB)
    usual = abs(gamma - 1 / 2.2) < 0.01  # noqa: PLR2004 (what the specification has sRGB written as)
    if usual and np.allclose(whites, _SRGB, atol=0.002):
        return None
    try:
        return matrix_profile(whites, None if usual else 1 / gamma)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None  # of no colours that there are


def _of_code_points(primaries: int, transfer: int) -> bytes | None:
    whites = _PRIMARIES.get(primaries, _SRGB)
    if transfer in (_PQ, _HLG):
        return matrix_profile(whites, _pq if transfer == _PQ else _hlg)
    gamma = _GAMMAS.get(transfer)
    return None if whites == _SRGB and gamma is None else matrix_profile(whites, gamma)


def _nclx(data: bytes) -> tuple[int, int]:
    """Return colour primaries and transfer characteristics of the first `nclx` box among an AVIF's properties."""
    for path in _boxes(data, 0, len(data), b"meta"):
        for properties in _boxes(data, path[0] + 4, path[1], b"iprp"):
            for container in _boxes(data, *properties, b"ipco"):
                for start, end in _boxes(data, *container, b"colr"):
                    if data[start : start + 4] == b"nclx" and end - start >= 8:  # noqa: PLR2004
                        return struct.unpack_from(">HH", data, start + 4)
    return 1, 13


def _boxes(data: bytes, start: int, end: int, kind: bytes) -> list[tuple[int, int]]:
    """Return where the contents of boxes of one kind begin and end, of those between `start` and `end`."""
    found = []
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else min(start + size, end)
        if data[start + 4 : start + 8] == kind:
            found.append((start + head, stop))
        start = max(stop, start + 8)
    return found


@lru_cache(maxsize=16)
def matrix_profile(whites: Chromaticities, curve: float | Callable[[NDArray[Any]], NDArray[Any]] | None) -> bytes:
    """Return an ICC profile (version 4.3) of RGB primaries and one curve: a gamma, a function, or None for sRGB's."""
    to_d50 = _adaptation(whites[:2])
    # Columns are the primaries' XYZ, scaled so that their sum is white's.
    primaries = np.stack([_xyz(whites[at : at + 2]) for at in (2, 4, 6)], axis=1)  # (3, 3)
    primaries = to_d50 @ (primaries * np.linalg.solve(primaries, _xyz(whites[:2])))
    tone = _curve(curve)
    tags = {
        b"desc": _text("PixTools: as the file says"),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(to_d50.ravel()),
        **{name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(primaries[:, at]) for at, name in enumerate((b"r", b"g", b"b"))},
        **{name + b"TRC": tone for name in (b"r", b"g", b"b")},
    }
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4xI4s4s4s6H4s28x", at + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp"
    ) + _fixed(_D50)  # ICC.1:2010, 7.2
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _xyz(xy: Chromaticities) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: Chromaticities) -> NDArray[np.float64]:
    """Return Bradford's matrix from a white to that of profiles."""
    ratio = (_BRADFORD @ _D50) / (_BRADFORD @ _xyz(white))
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD
    return adapted


def _curve(curve: float | Callable[[NDArray[Any]], NDArray[Any]] | None) -> bytes:
    if curve is None:
        return b"para\0\0\0\0\0\3\0\0" + _fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    if callable(curve):
        values = curve(np.linspace(0, 1, 1024)).clip(0, 1) * 65535
        return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.round().astype(">u2").tobytes()
    return b"para\0\0\0\0\0\0\0\0" + _fixed([curve])


def _pq(signal: NDArray[Any]) -> NDArray[Any]:
    """SMPTE ST 2084, with 203 cd/m² (ITU-R BT.2408) as white."""
    root = signal ** (1 / 78.84375)
    return 10_000 / 203 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def _hlg(signal: NDArray[Any]) -> NDArray[Any]:
    """ITU-R BT.2100, its signal of 0.75 as white and each channel by the display's gamma of 1.2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)  # noqa: PLR2004
    display: NDArray[Any] = (scene / ((np.exp((0.75 - c) / a) + b) / 12)) ** 1.2
    return display


def _fixed(values: Any) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _text(text: str) -> bytes:
    units = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(units), 28) + units
