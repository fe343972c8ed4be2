"""The blocks of a GIF: its frames, each as a GIF of its own for the decoder.

Not left to Pillow, which finds frames and their sizes only by decoding all before them, takes memory for a frame larger
than the canvas as it opens the file, and composes otherwise than browsers do.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from pixtools.errors import CorruptImage
from pixtools.imaging.animation import After, Layer, compose
from pixtools.imaging.color import normalise
from pixtools.imaging.picture import Picture, Size

_IMAGE, _EXTENSION = 0x2C, 0x21
_CONTROL, _APPLICATION = b"\xf9", b"\xff"
# What a file may have, for each takes time: some extensions stand before each frame, and full blocks have 255 bytes.
_MOST_EXTENSIONS, _MOST_BLOCKS = 100_000, 1_000_000
_AFTER = {2: After.CLEARED, 3: After.RESTORED}


@dataclass(frozen=True)
class Frame:
    left: int
    top: int
    size: Size
    body: slice  # of the file: flags, palette and pixels
    control: bytes  # the four bytes of its control extension: flags, delay, transparent colour


@dataclass(frozen=True)
class Gif:
    size: Size
    palette: bytes  # flags, background, aspect and the colours that frames without their own have
    frames: tuple[Frame, ...]
    loops: int
    broken: bool  # something stands where a block should begin

    @property
    def extent(self) -> Size:
        """The sides of the largest frame and the canvas: frames may be larger than what is seen of them."""
        sizes = [self.size, *(frame.size for frame in self.frames)]
        return max(width for width, _ in sizes), max(height for _, height in sizes)


def parse(data: bytes, most: int | None = None) -> Gif:
    """Find the frames of a GIF, the first `most`, without decoding them.

    A file that ends too early has those that it begins. Raises EOFError where there is none, and CorruptImage where
    there are more blocks than a picture has.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_bytes(flags)
    palette, control, loops, frames = data[10:at], bytes(4), 1, []
    for start, end in _blocks(data, at):
        at = end
        if data[start] == _IMAGE:
            left, top, wide, high = struct.unpack_from("<HHHH", data, start + 1)
            frames.append(Frame(left, top, (wide, high), slice(start + 9, end), control))
            control = bytes(4)
            if len(frames) == most:
                break
            continue
        label, body = data[start + 1 : start + 2], data[start + 3 : start + 22]
        if label == _CONTROL and len(body) >= 4:  # noqa: PLR2004
            control = body[:4]
        elif label == _APPLICATION and body.startswith((b"NETSCAPE2.0\3\1", b"ANIMEXTS1.0\3\1")):
            again = int.from_bytes(body[13:15], "little")
            loops = again + 1 if again else 0  # a GIF says how often it is shown again
    if not frames:
        raise EOFError("there is no frame in it")
    first = frames[0]
    canvas = (max(width, first.left + first.size[0]), max(height, first.top + first.size[1]))
    # Many files end with zeros, or without their trailer; what lies behind it is no part of the picture.
    broken = data[at:].lstrip(b"\0")[:1] not in (b"", b";")
    return Gif(canvas, palette, tuple(frames), loops, broken)


def read(data: bytes) -> Picture:
    """Decode all frames of a GIF as they are seen. Raises ValueError where they break off in the middle."""
    gif = parse(data)
    if gif.broken:
        raise ValueError(f"something other than a frame follows frame {len(gif.frames)}")
    if len(gif.frames) == 1 and gif.frames[0].size == gif.size:
        return next(_layers(gif, data)).picture  # nothing to compose, which would take thrice the memory
    return compose(gif.size, _layers(gif, data), gif.loops)


def _layers(gif: Gif, data: bytes) -> Iterator[Layer]:
    for frame in gif.frames:
        head = b"GIF89a" + struct.pack("<HH", *frame.size) + gif.palette
        control = b"!\xf9\4" + bytes([frame.control[0] & 1]) + frame.control[1:] + b"\0"  # transparency alone
        alone = head + control + b"," + struct.pack("<HHHH", 0, 0, *frame.size) + data[frame.body] + b";"
        with Image.open(io.BytesIO(alone), formats=["GIF"]) as image:
            image.load()
            picture = normalise(image, None)
        after = _AFTER.get(frame.control[0] >> 2 & 7, After.STAYS)
        delay = int.from_bytes(frame.control[1:3], "little") * 10
        yield Layer(picture, frame.left, frame.top, after=after, duration=delay)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield where each frame and each extension begins and ends; all else ends the file, its trailer among it."""
    extensions, room = 0, _MOST_BLOCKS
    while at < len(data) and data[at] in (_IMAGE, _EXTENSION):
        if data[at] == _IMAGE:
            if at + 10 > len(data):
                return
            chain = at + 11 + _palette_bytes(data[at + 9])
        else:
            chain = at + 2
            extensions += 1
            if extensions > _MOST_EXTENSIONS:
                raise _more_than(_MOST_EXTENSIONS, "extensions")
        end, room = _end_of_chain(data, chain, room)
        yield at, end
        at = end


def _end_of_chain(data: bytes, at: int, room: int) -> tuple[int, int]:
    """Return where the chain of blocks that begins at `at` ends, each led by its length, the last being 0.

    The second number is what is left of `room`, the number of blocks that may come.
    """
    while at < len(data) and data[at]:
        at += data[at] + 1
        room -= 1
        if room < 0:
            raise _more_than(_MOST_BLOCKS, "blocks")
    return min(at + 1, len(data)), room


def _more_than(most: int, what: str) -> CorruptImage:
    return CorruptImage(
        f"It has more than {most:,} {what}, which no picture needs. Open it in an editor and export it anew."
    )
