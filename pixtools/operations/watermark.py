"""Watermark: draw a text or an image on every frame. The image is a part of the request, such as a logo.

Sizes are relative to the picture's shorter side, so the same parameters suit pictures of all sizes. The font of texts
is FiraGO (see `imaging/text_rendering.py`).
"""

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
from pixtools.imaging.text_rendering import Align, line_height, line_size, render_text, unwritable
from pixtools.operations.base.kinds import Composite, Parts
from pixtools.operations.base.params import ADVANCED, Color, PartName, TransformParams, UnsuitableParameter

_TEXT_SCALE, _IMAGE_SCALE = 0.06, 0.25
_MIN_LINE_HEIGHT = 6.0  # pixels; smaller text cannot be read


def _check_writable(text: str) -> str:
    if (reason := unwritable(text)) is not None:
        raise ValueError(reason)
    return text


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_writable)]


class Watermark(TransformParams):
    """Parameters of the watermark: either `text` or `image`, and where and how it is drawn."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["text"]}, {"required": ["image"]}]})

    text: Text | None = Field(None, title="Text", description="up to 200 characters on up to 10 lines")
    image: PartName | None = Field(
        None, title="Image", description="name of a further file of the request, such as a logo"
    )
    position: Position = Field(
        "bottom-right", title="Position", description="`tile` repeats the watermark over the whole picture"
    )
    scale: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Scale",
        description="height of a line of text, or width of the image, as a fraction of the picture's shorter side; "
        f"default {_TEXT_SCALE} for text and {_IMAGE_SCALE} for an image; reduced if the watermark would not fit",
    )
    margin: float = Field(
        0.03,
        ge=0,
        le=0.4,
        title="Margin",
        description="distance from the edges, as a fraction of the picture's shorter side",
        json_schema_extra=ADVANCED,
    )
    opacity: float = Field(0.6, gt=0, le=1, title="Opacity", description="1 is opaque")
    color: Color = Field("#ffffff", title="Colour", description="of the text; the outline is always black or white")

    @model_validator(mode="after")
    def _check_text_or_image(self) -> Watermark:
        if (self.text is None) == (self.image is None):
            raise ValueError("give a text or an image, and not both")
        if self.image is not None and "color" in self.model_fields_set:
            raise ValueError("leave `color` out: it applies only to text")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the values that decide the result. For a text, add the versions of the font and the text libraries."""
        return super().identity() | ({} if self.text is None else {"lettering": LETTERING})

    def size(self, size: Size) -> Size:
        """Return `size`, because a watermark does not change the size.

        Raises UnsuitableParameter if the text would be too small to read, or if the image would be narrower than a
        pixel.
        """
        if self.text is None:
            self._check_image_width(size)
        else:
            self._check_line_height(size)
        return size

    def _check_image_width(self, size: Size) -> None:
        if self.mark_size(size) < 1:
            raise UnsuitableParameter(
                "scale",
                f"makes the image narrower than a pixel in a picture of {_size_text(size)}; give a larger scale",
            )

    def _check_line_height(self, size: Size) -> None:
        if self.mark_size(size) < _MIN_LINE_HEIGHT:
            smallest_scale = math.ceil(_MIN_LINE_HEIGHT / min(size) * 100) / 100
            remedy = f"give {smallest_scale:g} or more" if smallest_scale <= 1 else "leave the watermark out"
            raise UnsuitableParameter(
                "scale", f"makes the text too small to read in a picture of {_size_text(size)}; {remedy}"
            )
        if line_height(self.font_size(size)) < _MIN_LINE_HEIGHT:
            raise UnsuitableParameter(
                "text",
                f"is too long to be readable in a picture of {_size_text(size)}; "
                "shorten the text, or break it into lines",
            )

    def mark_size(self, size: Size) -> float:
        """Return the wanted height of a line of text, or the wanted width of the image, in pixels."""
        scale = self.scale or (_IMAGE_SCALE if self.text is None else _TEXT_SCALE)
        return scale * min(size)

    def font_size(self, size: Size) -> float:
        """Return the font size in pixels at which the whole text fits within the margins."""
        assert self.text is not None  # noqa: S101 (called for texts only)
        return line_size(self.text, self.mark_size(size), self.max_mark_size(size))

    def max_mark_size(self, size: Size) -> Size:
        """Return the size of the area within the margins. No watermark is larger than this area."""
        return within(size, self.margin_pixels(size))

    def margin_pixels(self, size: Size) -> int:
        """Return the margin in pixels."""
        return round(self.margin * min(size))


def _size_text(size: Size) -> str:
    return f"{size[0]} × {size[1]} pixels"


def run(picture: Picture, params: Watermark, parts: Parts) -> Picture:
    """Return the picture with the watermark on every frame.

    Raises CorruptImage or UnsupportedType if the image of the watermark cannot be decoded.
    """
    size = picture.size
    if params.text is not None:
        mark = render_text(params.text, params.font_size(size), params.color, _align(params.position))
    else:
        assert params.image is not None  # noqa: S101 (a text or an image is given)
        width = round(params.mark_size(size))
        mark = as_mark(_decode_part(params.image, parts), width, params.max_mark_size(size))
    return stamp(picture, mark, params.position, params.margin_pixels(size), params.opacity)


def _align(position: Position) -> Align:
    """Return how to align the lines of a text. A text at the left edge is aligned left, for example."""
    if "left" in position:
        return "left"
    return "right" if "right" in position else "center"


def _decode_part(name: str, parts: Parts) -> Picture:
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
