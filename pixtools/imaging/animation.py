"""Frames as animation files hold them, parts laid over each other, made into frames as they are seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from PIL import Image

from pixtools.imaging.picture import Picture, Size

_LOOPS_FOR_EVER = 65_535  # more than WebP can count, and than anybody sees
_TOO_SHORT_MS, _SHOWN_MS = 10, 100


class After(Enum):
    """What becomes of a layer once its time is over."""

    STAYS = auto()
    CLEARED = auto()  # its place turns transparent
    RESTORED = auto()  # its place turns into what it was before


@dataclass(frozen=True)
class Layer:
    """A frame as its file holds it: part of the canvas."""

    picture: Picture
    left: int = 0
    top: int = 0
    over: bool = True  # blended with what is there, or else put in its place
    after: After = After.STAYS
    duration: int = 0  # milliseconds


def alike(frames: Sequence[Picture]) -> tuple[list[Image.Image], bytes | None]:
    """Return stills in one mode that has room for each, and their profile.

    That of grey holds for all or for none: it describes no colours, and frames that it fits must not stand out.
    """
    mode = _mode_for(all(frame.mode in ("L", "LA") for frame in frames), any(frame.has_alpha for frame in frames))
    images = [frame.image if frame.mode == mode else frame.image.convert(mode) for frame in frames]
    return images, _shared({frame.icc for frame in frames})


def animated(frames: Sequence[Image.Image], icc: bytes | None, durations: Sequence[float], loops: int) -> Picture:
    """Return frames of one size and mode as a picture; a single one is a still.

    A duration of 10 ms or less is one of 100, as every browser shows it: old files say 0 and do not mean it.
    """
    if len(frames) == 1:
        return Picture.still(frames[0], icc)
    shown = tuple(_SHOWN_MS if round(each) <= _TOO_SHORT_MS else round(each) for each in durations)
    return Picture(tuple(frames), icc, durations=shown, loops=0 if loops > _LOOPS_FOR_EVER else loops)


def compose(size: Size, layers: Iterable[Layer], loops: int) -> Picture:
    """Lay layers over each other on a transparent canvas, as browsers do: what lies outside of it is cut off."""
    frames, durations, profiles, grey, alpha = [], [], set(), True, False
    for layer, seen in _seen(size, layers):
        frames.append(seen)
        durations.append(layer.duration)
        profiles.add(layer.picture.icc)
        grey = grey and layer.picture.mode in ("L", "LA")
        alpha = alpha or seen.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]  # noqa: PLR2004
    mode = _mode_for(grey, alpha)
    picture = animated(frames, _shared(profiles), durations, loops)
    return picture if mode == "RGBA" else replace(picture, frames=tuple(frame.convert(mode) for frame in frames))


def _mode_for(grey: bool, alpha: bool) -> str:  # noqa: FBT001
    return ("L" if grey else "RGB") + ("A" if alpha else "")


def _shared(profiles: set[bytes | None]) -> bytes | None:
    return profiles.pop() if len(profiles) == 1 else None


def _seen(size: Size, layers: Iterable[Layer]) -> Iterator[tuple[Layer, Image.Image]]:
    canvas = Image.new("RGBA", size)
    for layer in layers:
        image = layer.picture.image
        width, height = min(image.width, size[0] - layer.left), min(image.height, size[1] - layer.top)
        if width <= 0 or height <= 0:
            yield layer, canvas.copy()  # all of it is outside
            continue
        corner, place = (layer.left, layer.top), (layer.left, layer.top, layer.left + width, layer.top + height)
        before = canvas.crop(place) if layer.after is After.RESTORED else None
        image = image.crop((0, 0, width, height)).convert("RGBA")
        if layer.over and layer.picture.has_alpha:
            canvas.alpha_composite(image, corner)
        else:
            canvas.paste(image, corner)
        yield layer, canvas.copy()
        if before is not None:
            canvas.paste(before, corner)
        if layer.after is After.CLEARED:
            canvas.paste((0, 0, 0, 0), place)
