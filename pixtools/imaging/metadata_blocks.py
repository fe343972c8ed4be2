"""Reads EXIF, XMP and IPTC from all formats, selects the metadata that results keep, and makes options for encoders."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import replace
from typing import IO, Any, Literal

from PIL import Image, PngImagePlugin

from pixtools.imaging import png_chunks, tiff_tags
from pixtools.imaging.picture import Metadata, Size
from pixtools.imaging.tiff_tags import Directory, Tags

Strip = Literal[
    "gps",  # the location, the owner, serial numbers, XMP, IPTC and more; `_MAIN` and `_EXIF` list what is kept
    "all",  # everything but the colour profile
    "none",
]
"""Which metadata to remove."""

EXIF_BYTES = 65_527
"""The most bytes of EXIF in a result, because a JPEG can store no more. The largest values are removed first."""

# A segment of a JPEG holds 65,533 bytes. XMP and IPTC begin with a name, which takes some of these bytes.
_XMP_BYTES = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")
_IPTC_BYTES = 65_533 - len(b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + b"size" + b"\0")

_PNG_XMP = b"XML:com.adobe.xmp\0"  # keyword of the iTXt chunk that holds XMP
_MAX_READ_BYTES = 1 << 20  # larger blocks are ignored

_XMP, _IPTC, _PHOTOSHOP, _ICC, _ORIENTATION = 0x02BC, 0x83BB, 0x8649, 0x8773, 0x0112
_WIDTH, _HEIGHT = 0xA002, 0xA003  # tags of the Exif directory: the size in pixels

# Tags that `strip: gps` keeps. This is a list of allowed tags, so that new tags of camera makers are removed. The list
# does not contain serial numbers, owners, unique ids, makers' notes, free comments, or keywords, which may be places.
_MAIN = frozenset({
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298,  # description, make, model, software, date, artist, ©
    0x011A, 0x011B, 0x0128,  # resolution in print
    0x4746, 0x4749,  # rating
})  # fmt: skip
_EXIF = frozenset({
    0x829A, 0x829D, 0x8822, 0x8827, *range(0x8830, 0x8836),  # exposure, aperture, programme, sensitivity
    0x9000, 0xA000, 0x9003, 0x9004, *range(0x9010, 0x9013), *range(0x9290, 0x9293),  # versions, dates
    *range(0x9201, 0x920B),  # shutter, aperture, brightness, bias, distance, metering, light, flash, focal length
    0xA20B, 0xA215, 0xA217, 0xA300, 0xA301, *range(0xA401, 0xA40B), 0xA40C,  # how the photo was taken and rendered
    0xA432, 0xA433, 0xA434, 0xA436, 0xA437,  # lens (its serial number is 0xA435), title, photographer
    *range(0xA460, 0xA463),  # composite
    _WIDTH, _HEIGHT,
})  # fmt: skip

# Tags that describe the structure of the source file, so no result may keep them. `_STRUCTURE` contains the tags of
# TIFF and DNG, except the tags that describe the picture. It also contains the tags of blocks that this module stores
# elsewhere or drops.
_DESCRIPTIVE = frozenset({0x010D, 0x011D, 0x013C}) | _MAIN
_STRUCTURE = (
    frozenset(range(0x0300)) | frozenset(range(0xC612, 0xCE00)) | {_IPTC, _PHOTOSHOP, _ICC, 0x8568, 0x935C}
) - _DESCRIPTIVE
# Exif tags that describe the pixels of the source. They may be wrong for the result, which has other pixels.
_OF_SOURCE_PIXELS = frozenset({0x9101, 0x9102, 0xA001, 0xA20E, 0xA20F, 0xA210, 0x9214, 0xA214, 0xA500})

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


def read(image: Image.Image, data: bytes) -> Metadata:
    """Return the metadata blocks of `image`, which was opened from `data`. The image need not be loaded.

    Blocks of more than 1 MiB are ignored. Raises CorruptImage if a PNG has too many chunks, and no other error.
    """
    found: tuple[Any, ...]
    match image.format:
        case "PNG":  # do not use `image.info`, because its "exif" and "xmp" may come from text chunks
            found = png_blocks(io.BytesIO(data))
        case "TIFF":
            found = _of_tiff(data)
        case _:
            resources = image.info.get("photoshop")
            iptc = resources.get(0x0404) if isinstance(resources, dict) else None
            found = (image.info.get("exif"), image.info.get("xmp"), iptc)
    exif, xmp, iptc = (
        block if isinstance(block, bytes) and len(block) <= _MAX_READ_BYTES else b"" for block in (*found, b"")[:3]
    )
    return Metadata(re.sub(b"^(Exif\0\0)+", b"", exif), xmp.rstrip(b"\0"), iptc)


def png_blocks(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return the EXIF and the XMP of a PNG, also from chunks after the pixels.

    Pillow reads chunks after the pixels only when it decodes the pixels. The position of the file is restored.
    Checksums are not verified. Raises CorruptImage if there are too many chunks.
    """
    found: dict[bytes, bytes] = {}
    position = file.tell()
    for chunk in png_chunks.walk(file):
        if chunk.type not in (b"eXIf", b"iTXt") or chunk.size > _MAX_READ_BYTES or chunk.type in found:
            continue
        content = file.read(chunk.size)
        if chunk.type == b"eXIf":
            found[chunk.type] = content
        elif content.startswith(_PNG_XMP):
            found[chunk.type] = _text(content.removeprefix(_PNG_XMP))
    file.seek(position)
    return found.get(b"eXIf", b""), found.get(b"iTXt", b"")


def _text(content: bytes) -> bytes:
    """Return the text of an iTXt chunk, or no bytes if the text is damaged or too large.

    `content` is the part of the chunk after the keyword (PNG 3, 11.3.3.4).
    """
    is_compressed, (_, _, text) = content[:1] == b"\1", [*content[2:].split(b"\0", 2), b"", b""][:3]
    if not is_compressed:
        return text
    try:
        text = zlib.decompressobj().decompress(text, _MAX_READ_BYTES + 1)
    except zlib.error:
        return b""
    return text if len(text) <= _MAX_READ_BYTES else b""


def _of_tiff(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the EXIF, the XMP and the IPTC of a TIFF.

    The EXIF contains the tags of the first picture, without the tags that describe the structure of the file.
    Of these tags, only the orientation is kept.
    """
    tags = tiff_tags.parse(data)
    if tags is None:
        return b"", b"", b""
    xmp, iptc = (bytes(tags.main[tag].value) if tag in tags.main else b"" for tag in (_XMP, _IPTC))
    exif = replace(tags, main=tiff_tags.without(tags.main, _STRUCTURE - {_ORIENTATION}))
    return _limited(exif, _MAX_READ_BYTES).to_bytes(), xmp, iptc


def select_metadata(metadata: Metadata, strip: Strip, size: Size) -> Metadata:
    """Return the metadata for a result of `size`, without the metadata that `strip` removes. Damaged tags are dropped.

    The orientation is always removed, because it has been applied. The thumbnail is always removed, because it shows
    the source. Tags that describe the pixels of the source are always removed too. With `none`, a maker's note stays at
    its offset in the EXIF, but may refer to data that were removed. Raises nothing.
    """
    if strip == "all":
        return Metadata()
    tags = tiff_tags.parse(metadata.exif)
    exif = _limited(_selected(tags, strip, size), EXIF_BYTES).to_bytes() if tags else b""
    if strip == "gps":
        return Metadata(exif)
    return Metadata(exif, _XMP_ORIENTATION.sub(rb"\g<1>1", metadata.xmp), metadata.iptc)


def _selected(tags: Tags, strip: Strip, size: Size) -> Tags:
    """Return the tags that `strip` (`gps` or `none`) keeps. The tags of width and height get the values of `size`."""
    if strip == "gps":
        selected = Tags(tags.order, tiff_tags.only(tags.main, _MAIN), tiff_tags.only(tags.exif, _EXIF))
    else:
        exif = tiff_tags.without(tags.exif, _OF_SOURCE_PIXELS)
        selected = replace(tags, main=tiff_tags.without(tags.main, _STRUCTURE), exif=exif)
    sides = {tag: tags.number(side) for tag, side in zip((_WIDTH, _HEIGHT), size, strict=True)}
    return replace(selected, exif=selected.exif | tiff_tags.only(sides, selected.exif))


def _limited(tags: Tags, max_bytes: int) -> Tags:
    """Remove tags until the rest fits into `max_bytes`. Remove the maker's note first, then the largest values."""
    excess = len(tags.to_bytes()) - max_bytes
    if excess > 0 and tiff_tags.MAKER_NOTE in tags.exif:
        tags = replace(tags, exif=tiff_tags.without(tags.exif, {tiff_tags.MAKER_NOTE}))
        excess = len(tags.to_bytes()) - max_bytes
    directories: tuple[Directory, ...] = (dict(tags.main), dict(tags.exif), dict(tags.gps))
    sizes = sorted(
        (len(entry.value), tag, index)
        for index, directory in enumerate(directories)
        for tag, entry in directory.items()
    )
    while excess > 0 and sizes:
        size, tag, index = sizes.pop()
        del directories[index][tag]
        excess -= 12 + (size if size > 4 else 0)  # noqa: PLR2004 (values up to four bytes are stored in their entry)
    main, exif, gps = directories
    return Tags(tags.order, main, exif, gps)


def encoder_options(metadata: Metadata, format_name: str) -> dict[str, Any]:
    """Return the metadata as options of Pillow's encoder for `format_name`.

    Empty blocks are passed too, because otherwise some encoders take blocks from `image.info`. If XMP or IPTC does not
    fit into a JPEG, the block is left out.
    """
    match format_name:
        case "JPEG":
            return {
                "exif": metadata.exif and b"Exif\0\0" + metadata.exif,
                "xmp": metadata.xmp if len(metadata.xmp) <= _XMP_BYTES else b"",
                "extra": _photoshop_resource(metadata.iptc) if 0 < len(metadata.iptc) <= _IPTC_BYTES else b"",
            }
        case "PNG":
            info = PngImagePlugin.PngInfo()
            if metadata.xmp:
                info.add(b"iTXt", _PNG_XMP + bytes(4) + metadata.xmp)  # four zeros: not compressed, no language
            return {"exif": metadata.exif, "pnginfo": info}
        case _:
            return {"exif": metadata.exif, "xmp": metadata.xmp}


def _photoshop_resource(iptc: bytes) -> bytes:
    """Return the segment of a JPEG that holds IPTC: an image resource of Photoshop in APP13."""
    resource = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + (2 + len(content)).to_bytes(2, "big") + content
