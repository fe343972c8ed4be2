from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from pixtools.errors import CorruptImage, UnsupportedType
from pixtools.imaging.codecs import LETTERING
from pixtools.imaging.decoding import decode
from pixtools.imaging.memory_bounds import Memory
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.stamp import Position, as_mark, stamp, within
from pixtools.imaging.text_rendering import Align, letters, line_height, line_size, unwritable
from pixtools.operations.base.kinds import ADVANCED, Color, Composite, Misfit, PartName, Parts, TransformParams

_TEXT_SCALE, _IMAGE_SCALE = 0.06, 0.25
_LEAST_LINE = 6.0  # pixels: what is lower cannot be read


def _writable(text: str) -> str:
    if (wrong := unwritable(text)) is not None:
        raise ValueError(wrong)
    return text


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_writable)]


class Watermark(TransformParams):
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["text"]}, {"required": ["image"]}]})

    text: Text | None = Field(None, title="Text", description="up to 200 characters, on up to 10 lines")
    image: PartName | None = Field(
        None, title="Image", description="such as a logo: a further file of the request, called by its name"
    )
    position: Position = Field("bottom-right", title="Position", description="tile: all over the picture")
    scale: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Scale",
        description=f"of the picture's shorter side: the height of a line of text ({_TEXT_SCALE} if left out), or the "
        f"width of the image ({_IMAGE_SCALE}); less where it would not fit",
    )
    margin: float = Field(
        0.03,
        ge=0,
        le=0.4,
        title="Margin",
        description="to the edges, of the shorter side",
        json_schema_extra=ADVANCED,
    )
    opacity: float = Field(0.6, gt=0, le=1, title="Opacity", description="1 hides what is below")
    color: Color = Field("#ffffff", title="Colour", description="of the text; its outline is black or white")

    @model_validator(mode="after")
    def _is_one_mark(self) -> Watermark:
        if (self.text is None) == (self.image is None):
            raise ValueError("give a text or an image, one of them")
        if self.image is not None and "color" in self.model_fields_set:
            raise ValueError("color is for text; leave it out")
        return self

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({} if self.text is None else {"lettering": LETTERING})

    def size(self, size: Size) -> Size:
        if self.text is None:
            if self.mark_size(size) < 1:
                raise Misfit("scale", f"makes the image narrower than a pixel on {_shown(size)}; give a larger one")
        elif self.mark_size(size) < _LEAST_LINE:
            least = math.ceil(_LEAST_LINE / min(size) * 100) / 100
            remedy = f"give {least:g} or more" if least <= 1 else "leave the watermark out"
            raise Misfit("scale", f"makes lines too low to be read on {_shown(size)}; {remedy}")
        elif line_height(self.font_size(size)) < _LEAST_LINE:
            raise Misfit("text", f"is too long to be read on {_shown(size)}; shorten it, or break it into lines")
        return size

    def mark_size(self, size: Size) -> float:
        """Return the height of a line of text, or the width of the image, in pixels."""
        scale = self.scale or (_IMAGE_SCALE if self.text is None else _TEXT_SCALE)
        return scale * min(size)

    def font_size(self, size: Size) -> float:
        assert self.text is not None  # noqa: S101 (asked for texts alone)
        return line_size(self.text, self.mark_size(size), self.most(size))

    def most(self, size: Size) -> Size:
        """Return the size that no mark exceeds."""
        return within(size, self.margin_of(size))

    def margin_of(self, size: Size) -> int:
        return round(self.margin * min(size))


def _shown(size: Size) -> str:
    return f"{size[0]} × {size[1]} pixels"


def run(picture: Picture, params: Watermark, parts: Parts) -> Picture:
    size = picture.size
    if params.text is not None:
        mark = letters(params.text, params.font_size(size), params.color, _align(params.position))
    else:
        assert params.image is not None  # noqa: S101 (one of them is)
        mark = as_mark(_decoded(params.image, parts), round(params.mark_size(size)), params.most(size))
    return stamp(picture, mark, params.position, params.margin_of(size), params.opacity)


def _align(position: Position) -> Align:
    return "left" if "left" in position else "right" if "right" in position else "center"


def _decoded(name: str, parts: Parts) -> Picture:
    try:
        return decode(parts[name])
    except (CorruptImage, UnsupportedType) as error:
        raise type(error)(f"The image {name!r}: {error.detail}") from error


WATERMARK = Composite(
    name="watermark",
    title="Watermark",
    summary="Puts a text or a small image on the picture.",
    version=1,
    params=Watermark,
    run=run,
    parts=lambda params: {} if params.image is None else {"image": params.image},
    cost=lambda params: 10 if params.position == "tile" else 3,
    memory=lambda _: Memory(32),
)
