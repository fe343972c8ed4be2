"""IPTC's own datasets (IIM 4.2), as they were put into files before XMP, and still are by agencies."""

from __future__ import annotations

from collections.abc import Iterator

from pixtools.imaging.tiff_tags import text

_RECORD = 2  # the one about the picture; the others are about its transport
_MARKER = 0x1C
_LONG = 0x8000  # from here on a length is the number of bytes of the length

_NAMES = {
    5: "title",
    10: "urgency",
    15: "category",
    20: "supplemental_categories",
    25: "keywords",
    40: "instructions",
    55: "date_created",
    60: "time_created",
    80: "creators",
    85: "creator_titles",
    90: "city",
    92: "sublocation",
    95: "state",
    100: "country_code",
    101: "country",
    103: "transmission_reference",
    105: "headline",
    110: "credit",
    115: "source",
    116: "copyright",
    118: "contacts",
    120: "caption",
    122: "caption_writers",
}
_REPEATED = frozenset({20, 25, 80, 85, 118, 122})


def texts(iptc: bytes) -> dict[str, str | list[str]]:
    """Return what the datasets about the picture say, by plain names. Raises nothing: it ends where they break off."""
    found: dict[str, str | list[str]] = {}
    for dataset, raw in _datasets(iptc):
        name, said = _NAMES.get(dataset), text(raw.replace(b"\0", b""))
        if name is None or not said:
            continue
        if dataset in _REPEATED:
            listed = found.setdefault(name, [])
            assert isinstance(listed, list)  # noqa: S101 (a name is one or the other)
            listed.append(said)
        else:
            found.setdefault(name, said)
    return found


def _datasets(iptc: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 5 <= len(iptc) and iptc[at] == _MARKER:
        record, dataset, length = iptc[at + 1], iptc[at + 2], int.from_bytes(iptc[at + 3 : at + 5], "big")
        at += 5
        if length >= _LONG:
            digits = length - _LONG
            length = int.from_bytes(iptc[at : at + digits], "big")
            at += digits
        if record == _RECORD and at + length <= len(iptc):
            yield dataset, iptc[at : at + length]
        at += length
