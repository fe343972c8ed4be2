"""The size parameters that the `resize` operation and every encoder share."""

from __future__ import annotations

from pydantic import ConfigDict, Field, model_validator

from pixtools.imaging.geometry import Fit, Placement, place, put
from pixtools.imaging.picture import Picture, Size
from pixtools.operations.base.params import ADVANCED, Color, Params, Side


class Resizing(Params):
    """The size of a picture after resampling, in pixels."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["width"]}, {"required": ["height"]}]})

    width: Side | None = Field(None, title="Width", description="pixels")
    height: Side | None = Field(None, title="Height", description="pixels")
    fit: Fit = Field(
        "inside",
        title="Fit",
        description="`inside` keeps the proportions; `contain` keeps them and adds margins; `cover` keeps them and "
        "cuts off edges; `fill` stretches the picture",
    )
    upscale: bool = Field(
        default=False, title="Upscale", description="enlarge smaller pictures", json_schema_extra=ADVANCED
    )
    background: Color | None = Field(
        None,
        title="Background",
        description="colour of the margins with `contain`; they are transparent if no colour is given",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _check_combination(self) -> Resizing:
        if self.width is None and self.height is None:
            raise ValueError("give a width, a height or both")
        if self.fit != "inside" and None in (self.width, self.height):
            raise ValueError(f"give a width and a height: `{self.fit}` needs both")
        if self.background is not None and self.fit != "contain":
            raise ValueError("leave `background` out: it is the colour of margins, and only `contain` adds margins")
        return self

    @property
    def adds_alpha(self) -> bool:
        """Whether an opaque picture gets transparent margins."""
        return self.fit == "contain" and self.background is None

    def placement(self, size: Size) -> Placement:
        """Return the size of a picture of `size` after scaling, and the size of the canvas, which is the result."""
        return place(size, self.width, self.height, self.fit, upscale=self.upscale)

    def apply(self, picture: Picture) -> Picture:
        """Return the resampled picture.

        The scale is computed from the size of the picture in its file. So the result has the same size even if
        the decoder has shrunk the picture.
        """
        return put(picture, self.placement(picture.reduced_from or picture.size), self.background)
