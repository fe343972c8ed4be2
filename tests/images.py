"""Makes small image files for tests. Each file has a property of files from cameras, editors or attackers."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from pixtools.limits import Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = Limits(pixels=50_000_000, side=16_384, frames=100)

LATITUDE, LONGITUDE, ALTITUDE = -33.8599722, 151.2111111, 58.5
"""The place in the tags that `exif` returns, in degrees north, degrees east and metres."""


def photo(width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """Return uint8 (H, W, 3): a soft scene with four different corners, so every rotation and mirroring is visible."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))  # (H, W)
    bands = (0.2 + 0.6 * x, 0.5 + 0.3 * np.sin(5 * x + 3 * y), 0.8 - 0.6 * y)
    scene = np.stack(bands, axis=-1) * 255 + np.random.default_rng(7).normal(0, 3, (height, width, 3))
    array = scene.clip(0, 255).astype(np.uint8)
    block = max(1, min(width, height) // 4)
    array[:block, :block] = (220, 30, 30)
    array[:block, -block:] = (30, 200, 30)
    array[-block:, :block] = (30, 30, 220)
    array[-block:, -block:] = (250, 250, 250)
    return array


def distance(one: Any, other: Any) -> float:
    """Return the mean absolute difference of two pictures, from 0 to 255. Lossy codecs stay below 6 for `photo`."""
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    assert a.shape == b.shape
    return float(np.abs(a - b).mean())


def stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:  # noqa: PLR0911 (one for each case)
    """Turn upright pixels, so that they become upright again when a decoder applies this Exif orientation."""
    match orientation:
        case 2:
            return upright[:, ::-1]
        case 3:
            return upright[::-1, ::-1]
        case 4:
            return upright[::-1]
        case 5:
            return upright.transpose(1, 0, 2)
        case 6:
            return np.rot90(upright, 1)
        case 7:
            return np.rot90(upright, 2).transpose(1, 0, 2)
        case 8:
            return np.rot90(upright, -1)
        case _:
            return upright


def exif(orientation: int | None = None) -> Image.Exif:
    """Return the EXIF tags of a camera that stores its location."""
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = "PixCam", "PixCam One"
    if orientation is not None:
        tags[0x0112] = orientation
    tags.get_ifd(0x8769).update(
        {0x829A: IFDRational(1, 250), 0x829D: IFDRational(28, 10), 0x8827: 200, 0x9003: "2026:02:03 04:05:06"},
    )
    place = tags.get_ifd(0x8825)
    place[1], place[2] = "S", (IFDRational(33), IFDRational(51), IFDRational(359, 10))
    place[3], place[4] = "E", (IFDRational(151), IFDRational(12), IFDRational(40))
    place[5], place[6] = b"\0", IFDRational(117, 2)
    loaded = Image.Exif()
    loaded.load(tags.tobytes())  # because Pillow writes only loaded tags into a TIFF
    return loaded


def private_exif(orientation: int = 6) -> bytes:
    """Return the tags of a camera that stores private data. Each private text contains the word "secret"."""
    tags = exif(orientation)
    tags[0x013B], tags[0x8298], tags[0x010E] = "A. Painter", "(c) A. Painter", "A soft scene"
    tags[0x013C], tags[0x9C9F] = "secret-host", "secret subject".encode("utf-16-le")
    inner = tags.get_ifd(0x8769)
    inner.update({0x8827: 200, 0xA434: "PixLens 35mm", 0x920A: IFDRational(35), 0x9011: "+09:00", 0xA405: 53})
    inner.update({0xA002: 9_999, 0xA003: 9_998, 0xA001: 2, 0x9286: b"ASCII\0\0\0secret comment"})
    inner.update({0xA420: "secret-image-id", 0xA430: "secret owner", 0xA431: "secret-body", 0xA435: "secret-lens"})
    inner[0x927C] = b"PixMaker\0secret note" + bytes(40)
    return with_thumbnail(tags.tobytes())


def with_thumbnail(block: bytes) -> bytes:
    """Return EXIF with a second directory that holds a JPEG thumbnail, as in the files of all cameras."""
    whole = bytearray(block.removeprefix(b"Exif\0\0"))
    order = "<" if whole[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", whole, 4)
    (entries,) = struct.unpack_from(order + "H", whole, first)
    thumbnail = saved(photo(16, 16), "JPEG", comment=b"secret thumbnail")
    struct.pack_into(order + "I", whole, first + 2 + 12 * entries, len(whole))
    ends_at = len(whole) + 2 + 3 * 12 + 4
    whole += struct.pack(order + "H", 3) + struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
    whole += struct.pack(order + "HHII", 0x0201, 4, 1, ends_at) + struct.pack(
        order + "HHII", 0x0202, 4, 1, len(thumbnail)
    )
    return b"Exif\0\0" + bytes(whole) + bytes(4) + thumbnail


XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    b' tiff:Orientation="6" photoshop:City="secret city" xmp:Rating="4">'
    b'<dc:title><rdf:Alt><rdf:li xml:lang="de">Szene</rdf:li><rdf:li xml:lang="x-default">Scene</rdf:li></rdf:Alt>'
    b"</dc:title><dc:subject><rdf:Bag><rdf:li>soft</rdf:li><rdf:li>bright</rdf:li></rdf:Bag></dc:subject>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def iptc(**texts: bytes) -> bytes:
    """Return IPTC datasets: a city, two keywords, and further texts by dataset number (`n120=b"caption"`)."""
    pairs = [(90, b"secret city"), (25, b"soft"), (25, "Grüße".encode("latin-1"))]
    pairs += [(int(number.removeprefix("n")), text) for number, text in texts.items()]
    return b"".join(struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text for number, text in pairs)


def photo_with_metadata(kind: str, orientation: int = 6) -> bytes:
    """Return `photo` with an orientation tag and all metadata blocks of a format.

    If `kind` is "PNG", the blocks are before the pixels. If `kind` is "PNG behind", they are after the pixels.
    """
    pixels, block = stored(photo(), orientation), private_exif(orientation)
    match kind:
        case "JPEG":
            iptc_resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc())) + iptc() + bytes(len(iptc()) % 2)
            resource = b"Photoshop 3.0\0" + iptc_resource
            segment = b"\xff\xed" + struct.pack(">H", 2 + len(resource)) + resource
            return saved(pixels, "JPEG", quality=92, exif=block, xmp=XMP, extra=segment, comment=b"secret")
        case "PNG" | "PNG behind":
            blocks = _chunk(b"eXIf", block[6:]) + _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))
            plain = saved(pixels, "PNG")
            at = len(plain) - 12 if kind == "PNG behind" else 33  # before IEND, or after IHDR
            return plain[:at] + blocks + plain[at:]
        case "TIFF":
            tags = Image.Exif()
            tags.load(block)
            tags[0x02BC], tags[0x83BB] = XMP, iptc()
            return saved(pixels, "TIFF", exif=tags)
        case _:
            return saved(pixels, kind, exif=block, xmp=XMP, quality=92)


def saved(picture: NDArray[np.uint8] | Image.Image, kind: str, **options: Any) -> bytes:
    """Return the picture as a file, written by Pillow."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    out = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(out, **options)  # because PixTools registers no encoder for HEIC
    else:
        image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    """Return a file decoded by Pillow."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def camera_jpeg(width: int = 96, height: int = 64, orientation: int = 1) -> bytes:
    """Return a photo as a camera stores it: with an orientation, a place, a comment, XMP and a wide-gamut profile."""
    return saved(
        stored(photo(width, height), orientation), "JPEG",
        quality=92, exif=exif(orientation), comment=b"secret comment", xmp=b"<x:xmpmeta>secret xmp</x:xmpmeta>",
        icc_profile=wide_gamut_profile(),
    )  # fmt: skip


def wide_gamut_profile(description: str = "Wide for tests") -> bytes:
    """Return an RGB profile with the primaries of Display P3, derived from the sRGB profile of lcms."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    struct.pack_into(">6H", profile, 24, 2026, 1, 1, 0, 0, 0)  # a fixed date, so that every call returns the same bytes
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tag, offset, _ = struct.unpack(">4sII", profile[at : at + 12])
        if tag in primaries:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in primaries[tag]))
        if tag == b"desc":
            # The description replaces "sRGB built-in", a text of 13 UTF-16 units.
            units = description[:13].ljust(13).encode("utf-16-be", "surrogatepass")
            profile[offset + 28 : offset + 54] = units
    return bytes(profile)


def png(
    width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:  # fmt: skip
    """Return a PNG of raw `rows`, each with its filter byte. Pillow reads such variants, but cannot write them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def grey_ramp_16_bit(extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Return a PNG with one row of 256 grey values of 16 bits: 0, 257, 514 and so on up to 65535."""
    row = (np.arange(256, dtype=np.uint32) * 257).astype(">u2").tobytes()
    return png(256, 1, depth=16, colour=0, rows=b"\0" + row, extra=extra)


def grey_tiff(values: NDArray[Any]) -> bytes:
    """Return a TIFF of signed integers (H, W), in the byte order of the array."""
    order = ">" if values.dtype.str[0] == ">" else "<"
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 8 * values.dtype.itemsize), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 1), (278, height), (279, values.nbytes), (339, 2)]
    index = b"".join(struct.pack(order + "HHIHxx", tag, 3, 1, value) for tag, value in entries)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + values.nbytes)
    return head + values.tobytes() + struct.pack(order + "H", len(entries)) + index + bytes(4)


def bomb(side: int = 50_000) -> bytes:
    """Return a PNG of some 10 kB whose header declares side × side pixels."""
    return png(side, side, depth=8, colour=2, rows=bytes(9_000_000))


def animation(frames: int) -> bytes:
    """Return a GIF of one pixel that alternates between black and white."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    descriptor = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    black, white = descriptor + b"\x02\x02\x44\x01\x00", descriptor + b"\x02\x02\x4c\x01\x00"
    return head + (black + white) * (frames // 2) + black * (frames % 2) + b";"


def truncated_jpeg() -> bytes:
    """Return the first half of a photo: its header is valid, and its pixels are incomplete."""
    whole = camera_jpeg(400, 300)
    return whole[: len(whole) // 2]


def container(major: bytes, *brands: bytes) -> bytes:
    """Return the beginning of an ISO base media file, such as AVIF or HEIC, with these brands."""
    body = major + bytes(4) + b"".join(brands)
    return struct.pack(">I4s", 8 + len(body), b"ftyp") + body + struct.pack(">I4s", 40, b"meta") + bytes(32)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
