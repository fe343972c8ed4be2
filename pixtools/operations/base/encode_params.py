"""The parameters that all encoders share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pixtools.imaging.metadata_blocks import Strip
from pixtools.imaging.picture import Size
from pixtools.operations.base.params import ADVANCED, Params
from pixtools.operations.base.resizing import Resizing


class EncodeParams(Params):
    """Parameters of every encoder. They say how to prepare the picture for the encoder."""

    resize: Resizing | None = Field(None, title="Resize", description="change the size first")
    color: Literal["keep", "srgb"] = Field(
        "keep",
        title="Colour",
        description="`keep` writes the colour profile into the file; `srgb` converts to sRGB, which needs no profile",
        json_schema_extra=ADVANCED,
    )
    strip: Strip = Field(
        "gps",
        title="Strip",
        description="metadata to remove. `gps`: location, owner, serial numbers, XMP and IPTC; `all`: everything "
        "but the colour profile; `none`: only what the format cannot store, and what is wrong for the result, such as "
        "the thumbnail",
        json_schema_extra=ADVANCED,
    )

    @property
    def adds_alpha(self) -> bool:
        """Whether the file of an opaque picture may have transparent pixels."""
        return self.resize is not None and self.resize.adds_alpha

    def size(self, size: Size) -> Size:
        """Return the size of the encoded picture for an input picture of `size`."""
        return self.resize.placement(size).canvas if self.resize else size

    def needed_size(self, size: Size) -> Size:
        """Return the size of a picture of `size` after scaling. So the decoder may shrink it to about this size."""
        return self.resize.placement(size).scaled if self.resize else size

    def frame_count(self, frames: int) -> int:
        """Return how many frames the file has for a picture with `frames` frames."""
        return frames


class AnimatedParams(EncodeParams):
    """Parameters of an encoder whose format can store an animation."""

    frames: Literal["all", "first"] = Field(
        "all",
        title="Frames",
        description="`all` keeps an animation; `first` keeps only its first frame",
        json_schema_extra=ADVANCED,
    )

    def frame_count(self, frames: int) -> int:
        """Return how many frames the file has for a picture with `frames` frames."""
        return frames if self.frames == "all" else 1
