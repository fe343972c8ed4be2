"""Composes the frames of an animation.

A file may store only a part of a frame. This part is drawn over the frames before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from PIL import Image

from pixtools.imaging.picture import Picture, Size

_MAX_LOOPS = 65_535  # WebP cannot store more loops, so a greater number becomes 0, which means without end
_TOO_SHORT_MS, _SHOWN_MS = 10, 100  # a frame of up to 10 ms is shown for 100 ms: see `animated`


class Disposal(Enum):
    """How the area of a layer changes when the layer's time is over, before the next layer is drawn."""

    KEEP = auto()
    CLEAR = auto()  # the area becomes transparent
    RESTORE = auto()  # the area becomes what it was before the layer


@dataclass(frozen=True)
class Layer:
    """A frame as the file stores it. The frame covers an area of the canvas."""

    picture: Picture  # a still
    left: int = 0
    top: int = 0
    blends: bool = True  # if True, the frame is drawn over the canvas with its alpha; if False, it replaces the area
    disposal: Disposal = Disposal.KEEP
    duration: int = 0  # milliseconds


def unify_modes(frames: Sequence[Picture]) -> tuple[list[Image.Image], bytes | None]:
    """Return the images of stills, converted to one mode that fits all of them, and their common profile.

    If the frames do not all have the same profile, the returned profile is None. A picture has only one profile, and
    this profile would be wrong for some frames. For example, a grey profile does not describe frames in colour.
    """
    mode = _mode_for(all(frame.mode in ("L", "LA") for frame in frames), any(frame.has_alpha for frame in frames))
    images = [frame.image if frame.mode == mode else frame.image.convert(mode) for frame in frames]
    return images, _common_profile({frame.icc for frame in frames})


def animated(frames: Sequence[Image.Image], icc: bytes | None, durations: Sequence[float], loops: int) -> Picture:
    """Return frames of one size and one mode as a picture. A single frame becomes a still.

    `durations` are milliseconds. A duration of 10 ms or less becomes 100 ms, as in every browser. Some old files
    contain the duration 0, although they were not meant to run that fast.
    """
    if len(frames) == 1:
        return Picture.still(frames[0], icc)
    shown = tuple(_SHOWN_MS if round(duration) <= _TOO_SHORT_MS else round(duration) for duration in durations)
    return Picture(tuple(frames), icc, durations=shown, loops=0 if loops > _MAX_LOOPS else loops)


def compose(size: Size, layers: Iterable[Layer], loops: int) -> Picture:
    """Draw the layers over each other on a transparent canvas of `size`, as browsers do.

    Pixels outside the canvas are cut off. The result has the simplest mode that can hold all frames. This function
    takes up to eight bytes of memory for each pixel of all frames.
    """
    frames, durations, profiles, grey, alpha = [], [], set(), True, False
    for layer, frame in _drawn(size, layers):
        frames.append(frame)
        durations.append(layer.duration)
        profiles.add(layer.picture.icc)
        grey = grey and layer.picture.mode in ("L", "LA")
        alpha = alpha or frame.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]  # noqa: PLR2004
    mode = _mode_for(grey, alpha)
    picture = animated(frames, _common_profile(profiles), durations, loops)
    return picture if mode == "RGBA" else replace(picture, frames=tuple(frame.convert(mode) for frame in frames))


def _mode_for(grey: bool, alpha: bool) -> str:  # noqa: FBT001
    return ("L" if grey else "RGB") + ("A" if alpha else "")


def _common_profile(profiles: set[bytes | None]) -> bytes | None:
    return profiles.pop() if len(profiles) == 1 else None


def _drawn(size: Size, layers: Iterable[Layer]) -> Iterator[tuple[Layer, Image.Image]]:
    """Draw each layer. Yield the layer and a copy of the canvas after drawing."""
    canvas = Image.new("RGBA", size)
    for layer in layers:
        image = layer.picture.image
        width, height = min(image.width, size[0] - layer.left), min(image.height, size[1] - layer.top)
        if width <= 0 or height <= 0:
            yield layer, canvas.copy()  # the layer lies outside the canvas, so it changes nothing
            continue
        corner, area = (layer.left, layer.top), (layer.left, layer.top, layer.left + width, layer.top + height)
        before = canvas.crop(area) if layer.disposal is Disposal.RESTORE else None
        image = image.crop((0, 0, width, height)).convert("RGBA")
        if layer.blends and layer.picture.has_alpha:
            canvas.alpha_composite(image, corner)
        else:
            canvas.paste(image, corner)
        yield layer, canvas.copy()
        if before is not None:
            canvas.paste(before, corner)
        if layer.disposal is Disposal.CLEAR:
            canvas.paste((0, 0, 0, 0), area)
