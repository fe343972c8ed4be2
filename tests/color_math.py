"""Computes expected colours with numpy from the definitions of the colour spaces, without the code under test.

The definitions are IEC 61966-2-1 (sRGB), SMPTE EG 432-1 (Display P3) and Adobe RGB (1998). The profiles follow
ICC.1:2001-04.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

D50 = np.array([0.9642, 1.0, 0.8249])


@dataclass(frozen=True)
class Space:
    """An RGB colour space: XYZ values of its primaries under D50, and a tone curve from stored values to light."""

    primaries: tuple[tuple[float, float, float], ...]
    curve: tuple[float, ...]  # light at evenly spaced stored values from 0 to 1; one number is an exponent

    def linear(self, stored: Floats) -> Floats:
        """Convert stored values to linear light. Both are from 0 to 1."""
        if len(self.curve) == 1:
            return stored ** self.curve[0]
        return np.interp(stored, np.linspace(0, 1, len(self.curve)), self.curve)

    def stored(self, linear: Floats) -> Floats:
        """Convert linear light to stored values. Both are from 0 to 1."""
        if len(self.curve) == 1:
            return linear ** (1 / self.curve[0])
        return np.interp(linear, self.curve, np.linspace(0, 1, len(self.curve)))


def _srgb_linear(stored: Floats) -> Floats:
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


_SRGB_CURVE = tuple(_srgb_linear(np.linspace(0, 1, 4096)).tolist())
SRGB = Space(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)), _SRGB_CURVE)
DISPLAY_P3 = Space(
    ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), _SRGB_CURVE
)
ADOBE_RGB = Space(((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), (563 / 256,))


def converted(pixels: Floats, source: Space, target: Space) -> Floats:
    """Convert pixels (..., 3) from 0 to 1 between two colour spaces. Colours outside `target` are clipped."""
    xyz = source.linear(pixels) @ np.array(source.primaries)  # `primaries` has a row for each primary
    return target.stored((xyz @ np.linalg.inv(np.array(target.primaries))).clip(0, 1))


def converted_8_bit(pixels: Pixels, source: Space, target: Space) -> Pixels:
    """Convert uint8 pixels (..., 3) between colour spaces."""
    return (converted(pixels / 255, source, target) * 255).round().astype(np.uint8)


def lab(srgb: Floats) -> Floats:
    """Convert sRGB pixels (..., 3) to CIE Lab under D50. The sRGB values are from 0 to 1."""
    ratio = SRGB.linear(srgb) @ np.array(SRGB.primaries) / D50
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


INKS = np.array([(0.05, 0.62, 0.88), (0.85, 0.10, 0.50), (0.98, 0.90, 0.08), (0.0, 0.0, 0.0)])
"""The sRGB colours of the inks C, M, Y and K at full strength on paper.

For a file without a profile, decoders assume other inks.
"""


def printed(cmyk: Floats) -> Floats:
    """Return the sRGB colours (..., 3) of printed inks (..., 4). All values are from 0 to 1.

    A printed colour is the product of the colours of the four inks.
    """
    return np.prod(1 - cmyk[..., :, None] * (1 - INKS), axis=-2)


def inks(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert RGB to CMYK (H, W, 4) with the simplest formula. 255 is the full strength of an ink."""
    black = 255 - pixels.max(axis=-1, keepdims=True)
    span = np.maximum(255 - black, 1).astype(float)
    colors = (255 - black - pixels) / span * 255
    return np.concatenate([colors.round().astype(np.uint8), black], axis=-1)


# Profiles


def rgb_profile(space: Space) -> bytes:
    """Return the profile of a colour space, with a matrix and tone curves."""
    if len(space.curve) == 1:
        curve = struct.pack(">4sIIH", b"curv", 0, 1, round(space.curve[0] * 256))
    else:
        entries = np.interp(np.linspace(0, 1, 1024), np.linspace(0, 1, len(space.curve)), space.curve)
        curve = struct.pack(">4sII", b"curv", 0, 1024) + (entries * 65535).round().astype(">u2").tobytes()
    colorants = {f"{name}XYZ".encode(): _xyz(primary) for name, primary in zip("rgb", space.primaries, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", colorants | {f"{name}TRC".encode(): curve for name in "rgb"})


def grey_profile(exponent: float) -> bytes:
    """Return a grey profile whose tone curve is a power with this exponent."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": struct.pack(">4sIIH", b"curv", 0, 1, round(exponent * 256))})


def cmyk_profile() -> bytes:
    """Return the profile of the inks of `printed`: a table with 16-bit Lab values for 9 strengths of each ink."""
    steps = 9
    grid = np.array(list(itertools.product(np.linspace(0, 1, steps), repeat=4)))  # (9^4, 4), black varies fastest
    table = lab(printed(grid))
    numbers = np.stack([table[:, 0] / 100 * 65280, (table[:, 1] + 128) * 256, (table[:, 2] + 128) * 256], axis=-1)
    head = struct.pack(">4sI4B", b"mft2", 0, 4, 3, steps, 0) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    straight = struct.pack(">2H", 0, 65535)
    lut = head + struct.pack(">2H", 2, 2) + straight * 4 + numbers.round().astype(">u2").tobytes() + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def read_grey_profile(profile: bytes) -> Space:
    """Return a colour space for grey pixels that are stored as RGB, with three equal values.

    The space has the tone curve of the profile and the primaries of sRGB.
    """
    assert profile[16:20] == b"GRAY"
    return Space(SRGB.primaries, _read_curve(_tags(profile)[b"kTRC"]))


def read_profile(profile: bytes) -> Space:
    """Return the colour space of a profile with a matrix and tone curves."""
    assert profile[16:20] == b"RGB "
    tags = _tags(profile)
    primaries = tuple(
        tuple(number / 65536 for number in struct.unpack(">3i", tags[name][8:20]))
        for name in (b"rXYZ", b"gXYZ", b"bXYZ")
    )
    return Space(primaries, _read_curve(tags[b"rTRC"]))


def _tags(profile: bytes) -> dict[bytes, bytes]:
    tags = {}
    for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        name, offset, length = struct.unpack(">4sII", profile[at : at + 12])
        tags[name] = profile[offset : offset + length]
    return tags


def _read_curve(tag: bytes) -> tuple[float, ...]:
    if tag.startswith(b"para"):
        assert tag[8:10] == b"\0\3", "of all parametric curves, only the curve of sRGB is supported"
        gamma, a, b, c, d = (number / 65536 for number in struct.unpack(">5i", tag[12:32]))
        steps = np.linspace(0, 1, 4096)
        return tuple(np.where(steps >= d, (a * steps + b).clip(0) ** gamma, c * steps).tolist())
    (count,) = struct.unpack(">I", tag[8:12])
    numbers = struct.unpack(f">{count}H", tag[12 : 12 + 2 * count])
    return (numbers[0] / 256,) if count == 1 else tuple(number / 65535 for number in numbers)


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(numbers: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _profile(device: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"Of a test"
    tags = {
        b"desc": struct.pack(">4sII", b"desc", 0, len(name) + 1) + name + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0None\0",
        b"wtpt": _xyz(tuple(D50)),
        **tags,
    }
    offset, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for signature, data in tags.items():
        index += struct.pack(">4sII", signature, offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(">IIHBB4s4s4s", size, 0, 0x0220, 0, 0, device, space, between).ljust(36, b"\0")
    head = head[:24] + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + _fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body
