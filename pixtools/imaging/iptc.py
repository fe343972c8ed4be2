"""Reads IPTC datasets (IIM 4.2). This kind of metadata is older than XMP, but news agencies still write it."""

from __future__ import annotations

from collections.abc import Iterator

from pixtools.imaging.tiff_tags import text

_RECORD = 2  # the record that describes the picture; all other records describe its transmission
_MARKER = 0x1C
_EXTENDED = 0x8000  # a length of 0x8000 + n means that the next n bytes hold the real length

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
    """Return the values of the datasets that describe the picture. The keys are names from `_NAMES`.

    Datasets that may be repeated become lists. Reading stops at damaged data. Raises nothing.
    """
    values: dict[str, str | list[str]] = {}
    for dataset, raw in _datasets(iptc):
        name, value = _NAMES.get(dataset), text(raw.replace(b"\0", b""))
        if name is None or not value:
            continue
        if dataset in _REPEATED:
            items = values.setdefault(name, [])
            assert isinstance(items, list)  # noqa: S101 (each name belongs to one dataset)
            items.append(value)
        else:
            values.setdefault(name, value)
    return values


def _datasets(iptc: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each dataset in the record that describes the picture."""
    at = 0
    while at + 5 <= len(iptc) and iptc[at] == _MARKER:
        record, dataset, length = iptc[at + 1], iptc[at + 2], int.from_bytes(iptc[at + 3 : at + 5], "big")
        at += 5
        if length >= _EXTENDED:
            length_bytes = length - _EXTENDED
            length = int.from_bytes(iptc[at : at + length_bytes], "big")
            at += length_bytes
        if record == _RECORD and at + length <= len(iptc):
            yield dataset, iptc[at : at + length]
        at += length
