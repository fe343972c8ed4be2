"""Reduces ICC profiles to the tags that determine colours (ICC.1:2022, 7 and 9).

The parameter `strip` removes metadata from results, but never the profile. So this module removes everything
from a profile that does not determine colours. For example, Apple's profiles contain the serial number of the monitor
(`mmod`). Some makers include whole tables of measurements. Any data may be appended to a profile.
"""

from __future__ import annotations

import hashlib
import struct

MOST_BYTES = 4 << 20
"""Most bytes of a profile that is written into a file. Real profiles, also RGB profiles with tables, are below 2 MB."""

_HEADER_BYTES, _ID_START, _RESERVED_START = 128, 84, 100
_MAX_TAGS = 100  # LittleCMS, Pillow's library for profiles, rejects profiles with more tags
_MAX_TEXT_BYTES = 8192  # real texts are shorter: Apple's names in thirty languages take a quarter of this
_TEXTS = frozenset({b"desc", b"cprt"})
_KEPT = _TEXTS | frozenset(
    b"wtpt bkpt chad lumi cicp gamt chrm meas view tech rig0 rig2 rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC "
    b"A2B0 A2B1 A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3".split()
)


def filter_profile(icc: bytes) -> bytes | None:
    """Return a profile with only the tags that determine colours. Return None for an invalid profile.

    Tags keep their order. Tags that share one content in `icc` also share it in the result. A profile from which
    nothing is removed stays unchanged. Raises nothing.
    """
    if len(icc) < _HEADER_BYTES + 4 or icc[36:40] != b"acsp":
        return None
    end = min(int.from_bytes(icc[:4], "big"), len(icc))
    count = int.from_bytes(icc[_HEADER_BYTES : _HEADER_BYTES + 4], "big")
    if count > _MAX_TAGS or _HEADER_BYTES + 4 + 12 * count > end:
        return None
    kept: dict[bytes, tuple[int, int]] = {}  # start and length of the content, by tag
    for entry in range(_HEADER_BYTES + 4, _HEADER_BYTES + 4 + 12 * count, 12):
        name, start, length = struct.unpack_from(">4sII", icc, entry)
        is_valid = 0 < length <= end - start and not (name in _TEXTS and length > _MAX_TEXT_BYTES)
        if name in _KEPT and is_valid:
            kept.setdefault(name, (start, length))
    if sum(length for _, length in set(kept.values())) > end:
        return None  # contents that overlap would be copied many times, so a small profile could become huge
    return _assembled(icc[:end], kept) if kept else None


def _assembled(icc: bytes, kept: dict[bytes, tuple[int, int]]) -> bytes:
    """Return a profile: the header, the tag table, and the contents of the `kept` tags.

    Each content begins at a multiple of four bytes.
    """
    body, new_starts, stop = bytearray(), {}, 0
    for start, length in sorted(set(kept.values())):
        body += bytes(-len(body) % 4)
        new_starts[start, length] = _HEADER_BYTES + 4 + 12 * len(kept) + len(body)
        stop = start + length
        body += icc[start:stop]
    body += bytes(min(-len(body) % 4, len(icc) - stop))  # pad the last content only if the original profile pads it
    table = b"".join(struct.pack(">4sII", name, new_starts[place], place[1]) for name, place in kept.items())
    rest = struct.pack(">I", len(kept)) + table + body
    header = struct.pack(">I", _HEADER_BYTES + len(rest)) + icc[4:_ID_START]
    # The profile id is a digest of the profile. For the digest, the flags, the intent and the id itself are replaced by
    # zeros (7.2.18).
    hashed = header[:44] + bytes(4) + header[48:64] + bytes(4) + header[68:_ID_START]
    hashed += bytes(_HEADER_BYTES - _ID_START) + rest
    has_id = any(icc[_ID_START:_RESERVED_START])
    profile_id = hashlib.md5(hashed, usedforsecurity=False).digest() if has_id else bytes(16)
    return header + profile_id + bytes(_HEADER_BYTES - _RESERVED_START) + rest
