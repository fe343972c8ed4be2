"""What a file says beside its pixels: where each container keeps it, and what of it goes on into another file."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import replace
from typing import IO, Any, Literal

from PIL import Image, PngImagePlugin

from pixtools.imaging import png_chunks, tiff_tags
from pixtools.imaging.picture import Notes, Size
from pixtools.imaging.tiff_tags import Directory, Tags

Strip = Literal[
    "gps",  # where it was taken, and what tells one camera or one person from all others
    "all",  # everything but the colour profile
    "none",
]
"""What does not go on."""

EXIF_BYTES = 65_527
"""What a JPEG has room for, and so the most that goes on: what is too large is left out, the largest first."""

# A segment of a JPEG has 65,533 bytes, and each kind of block a name in front.
_XMP_BYTES = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")
_IPTC_BYTES = 65_533 - len(b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + b"size" + b"\0")

_PNG_XMP = b"XML:com.adobe.xmp\0"  # the keyword of its chunk
_READ_BYTES = 1 << 20  # a larger block is no note

_XMP, _IPTC, _PHOTOSHOP, _ICC, _ORIENTATION = 0x02BC, 0x83BB, 0x8649, 0x8773, 0x0112
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the pixels, in the Exif directory

# Tags that go on by default. A list of what may, for nobody knows what makers will think of next. Serial numbers,
# owners, unique ids, makers' notes and free comments are not in it; keywords, rooms for places, neither.
_MAIN = frozenset({
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298,  # description, make, model, software, date, artist, ©
    0x011A, 0x011B, 0x0128,  # resolution in print
    0x4746, 0x4749,  # rating
})  # fmt: skip
_EXIF = frozenset({
    0x829A, 0x829D, 0x8822, 0x8827, *range(0x8830, 0x8836),  # exposure, aperture, programme, sensitivity
    0x9000, 0xA000, 0x9003, 0x9004, *range(0x9010, 0x9013), *range(0x9290, 0x9293),  # versions, dates
    *range(0x9201, 0x920B),  # shutter, aperture, brightness, bias, distance, metering, light, flash, focal length
    0xA20B, 0xA215, 0xA217, 0xA300, 0xA301, *range(0xA401, 0xA40B), 0xA40C,  # how it was taken and rendered
    0xA432, 0xA433, 0xA434, 0xA436, 0xA437,  # lens (its serial number is 0xA435), title, photographer
    *range(0xA460, 0xA463),  # composite
    _WIDTH, _HEIGHT,
})  # fmt: skip

# The file's own structure, which no other file may inherit: TIFF's tags but for those that describe, DNG's,
# and what goes on by itself or not at all.
_TOLD_BY_TIFF = frozenset({0x010D, 0x011D, 0x013C}) | _MAIN
_STRUCTURE = (
    frozenset(range(0x0300)) | frozenset(range(0xC612, 0xCE00)) | {_IPTC, _PHOTOSHOP, _ICC, 0x8568, 0x935C}
) - _TOLD_BY_TIFF
# What the pixels of the source were. Those of the result have their profile, and are sRGB without one.
_OF_ITS_PIXELS = frozenset({0x9101, 0x9102, 0xA001, 0xA20E, 0xA20F, 0xA210, 0x9214, 0xA214, 0xA500})

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


def read(image: Image.Image, data: bytes) -> Notes:
    """Return the notes of an image file, of which `image` was opened; it need not be loaded. Raises nothing.

    A block beyond a megabyte is passed over.
    """
    found: tuple[Any, ...]
    match image.format:
        case "PNG":  # `info` may hold text chunks of the same names
            found = png_blocks(io.BytesIO(data))
        case "TIFF":
            found = _of_tiff(data)
        case _:
            resources = image.info.get("photoshop")
            iptc = resources.get(0x0404) if isinstance(resources, dict) else None
            found = (image.info.get("exif"), image.info.get("xmp"), iptc)
    exif, xmp, iptc = (
        block if isinstance(block, bytes) and len(block) <= _READ_BYTES else b"" for block in (*found, b"")[:3]
    )
    return Notes(re.sub(b"^(Exif\0\0)+", b"", exif), xmp.rstrip(b"\0"), iptc)


def png_blocks(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return EXIF and XMP, which may stand behind the pixels, where Pillow looks only as it decodes them.

    The position of the file is left as it was, and checksums are not looked at. Raises CorruptImage as
    `png_chunks.walk` does.
    """
    found: dict[bytes, bytes] = {}
    was = file.tell()
    for chunk in png_chunks.walk(file):
        if chunk.kind not in (b"eXIf", b"iTXt") or chunk.size > _READ_BYTES or chunk.kind in found:
            continue
        content = file.read(chunk.size)
        if chunk.kind == b"eXIf":
            found[chunk.kind] = content
        elif content.startswith(_PNG_XMP):
            found[chunk.kind] = _text(content.removeprefix(_PNG_XMP))
    file.seek(was)
    return found.get(b"eXIf", b""), found.get(b"iTXt", b"")


def _text(chunk: bytes) -> bytes:
    """Return the text of an iTXt chunk behind its keyword (PNG, 11.3.3.4); none where it is a bomb."""
    compressed, (_, _, text) = chunk[:1] == b"\1", [*chunk[2:].split(b"\0", 2), b"", b""][:3]
    if not compressed:
        return text
    try:
        text = zlib.decompressobj().decompress(text, _READ_BYTES + 1)
    except zlib.error:
        return b""
    return text if len(text) <= _READ_BYTES else b""


def _of_tiff(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the tags of the first picture, but for the file's structure: a TIFF is its own EXIF."""
    tags = tiff_tags.parse(data)
    if tags is None:
        return b"", b"", b""
    xmp, iptc = (bytes(tags.main[tag].value) if tag in tags.main else b"" for tag in (_XMP, _IPTC))
    told = replace(tags, main=tiff_tags.without(tags.main, _STRUCTURE - {_ORIENTATION}))
    return _within(told, _READ_BYTES).to_bytes(), xmp, iptc


def kept(notes: Notes, strip: Strip, size: Size) -> Notes:
    """Return what of the notes goes on into a file of `size` pixels. Raises nothing: what is broken stays behind.

    Never the orientation, which has been applied, the thumbnail, which shows what was, and what the pixels of the
    source were. A maker's note goes on where it stood, but may refer to what is no longer there.
    """
    if strip == "all":
        return Notes()
    tags = tiff_tags.parse(notes.exif)
    exif = _within(_chosen(tags, strip, size), EXIF_BYTES).to_bytes() if tags else b""
    if strip == "gps":
        return Notes(exif)
    return Notes(exif, _XMP_ORIENTATION.sub(rb"\g<1>1", notes.xmp), notes.iptc)


def _chosen(tags: Tags, strip: Strip, size: Size) -> Tags:
    if strip == "gps":
        chosen = Tags(tags.order, tiff_tags.only(tags.main, _MAIN), tiff_tags.only(tags.exif, _EXIF))
    else:
        exif = tiff_tags.without(tags.exif, _OF_ITS_PIXELS)
        chosen = replace(tags, main=tiff_tags.without(tags.main, _STRUCTURE), exif=exif)
    sides = {tag: tags.number(side) for tag, side in zip((_WIDTH, _HEIGHT), size, strict=True)}
    return replace(chosen, exif=chosen.exif | tiff_tags.only(sides, chosen.exif))


def _within(tags: Tags, most: int) -> Tags:
    """Leave out what is too large: the maker's note first, then the largest values."""
    excess = len(tags.to_bytes()) - most
    if excess > 0 and tiff_tags.MAKER_NOTE in tags.exif:
        tags = replace(tags, exif=tiff_tags.without(tags.exif, {tiff_tags.MAKER_NOTE}))
        excess = len(tags.to_bytes()) - most
    parts: tuple[Directory, ...] = (dict(tags.main), dict(tags.exif), dict(tags.gps))
    sizes = sorted(((len(entry.value), tag, at) for at, part in enumerate(parts) for tag, entry in part.items()))
    while excess > 0 and sizes:
        size, tag, at = sizes.pop()
        del parts[at][tag]
        excess -= 12 + (size if size > 4 else 0)  # noqa: PLR2004 (a shorter value stands in its entry)
    main, exif, gps = parts
    return Tags(tags.order, main, exif, gps)


def blocks(notes: Notes, kind: str) -> dict[str, Any]:
    """Return the notes as the options of Pillow's encoder `kind`; empty ones too, or it might find some of its own.

    XMP and IPTC that a JPEG has no room for are left out.
    """
    match kind:
        case "JPEG":
            return {
                "exif": notes.exif and b"Exif\0\0" + notes.exif,
                "xmp": notes.xmp if len(notes.xmp) <= _XMP_BYTES else b"",
                "extra": _photoshop_resource(notes.iptc) if 0 < len(notes.iptc) <= _IPTC_BYTES else b"",
            }
        case "PNG":
            info = PngImagePlugin.PngInfo()
            if notes.xmp:
                info.add(b"iTXt", _PNG_XMP + bytes(4) + notes.xmp)  # not compressed, no language
            return {"exif": notes.exif, "pnginfo": info}
        case _:
            return {"exif": notes.exif, "xmp": notes.xmp}


def _photoshop_resource(iptc: bytes) -> bytes:
    """Return the segment of a JPEG in which IPTC is looked for: an image resource of Photoshop in APP13."""
    resource = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + (2 + len(content)).to_bytes(2, "big") + content
