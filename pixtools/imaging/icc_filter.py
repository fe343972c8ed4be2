"""ICC profiles brought down to what says how colours look (ICC.1:2022, 7 and 9).

Else a profile carries things past every `strip`: Apple's name the monitor by its serial number (`mmod`), makers put
in whole tables of measurements, and anything may be appended.
"""

from __future__ import annotations

import hashlib
import struct

MOST_BYTES = 4 << 20
"""No profile of more is written into a file: real ones, those of RGB with tables among them, stay under 2 MB."""

_HEAD, _ID, _RESERVED = 128, 84, 100
_MOST_TAGS = 100  # lcms reads no profile that has more
_MOST_TEXT_BYTES = 8192  # Apple's names in thirty languages take a quarter of it
_TEXTS = frozenset({b"desc", b"cprt"})
_KEPT = _TEXTS | frozenset(
    b"wtpt bkpt chad lumi cicp gamt chrm meas view tech rig0 rig2 rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC "
    b"A2B0 A2B1 A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3".split()
)


def essential(icc: bytes) -> bytes | None:
    """Return a profile with the tags that matter and nothing beside or behind them, None for what is no profile.

    The order of tags stays, and which of them share their content: one that holds nothing else comes out as it was.
    """
    if len(icc) < _HEAD + 4 or icc[36:40] != b"acsp":
        return None
    end, count = min(int.from_bytes(icc[:4], "big"), len(icc)), int.from_bytes(icc[_HEAD : _HEAD + 4], "big")
    if count > _MOST_TAGS or _HEAD + 4 + 12 * count > end:
        return None
    kept: dict[bytes, tuple[int, int]] = {}
    for at in range(_HEAD + 4, _HEAD + 4 + 12 * count, 12):
        name, start, length = struct.unpack_from(">4sII", icc, at)
        is_whole = 0 < length <= end - start and not (name in _TEXTS and length > _MOST_TEXT_BYTES)
        if name in _KEPT and is_whole:
            kept.setdefault(name, (start, length))
    if sum(length for _, length in set(kept.values())) > end:
        return None  # tags that overlap would multiply what is small
    return _assembled(icc[:end], kept) if kept else None


def _assembled(icc: bytes, kept: dict[bytes, tuple[int, int]]) -> bytes:
    body, moved, stop = bytearray(), {}, 0
    for start, length in sorted(set(kept.values())):
        body += bytes(-len(body) % 4)
        moved[start, length] = _HEAD + 4 + 12 * len(kept) + len(body)
        stop = start + length
        body += icc[start:stop]
    body += bytes(min(-len(body) % 4, len(icc) - stop))  # some end with their last tag
    table = b"".join(struct.pack(">4sII", name, moved[place], place[1]) for name, place in kept.items())
    rest = struct.pack(">I", len(kept)) + table + body
    head = struct.pack(">I", _HEAD + len(rest)) + icc[4:_ID]
    # Its own digest, with what may be changed later (flags, intent) and itself as zeros (7.2.18).
    plain = head[:44] + bytes(4) + head[48:64] + bytes(4) + head[68:_ID] + bytes(_HEAD - _ID) + rest
    digest = hashlib.md5(plain, usedforsecurity=False).digest() if any(icc[_ID:_RESERVED]) else bytes(16)
    return head + digest + bytes(_HEAD - _RESERVED) + rest
