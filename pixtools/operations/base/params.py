"""The base classes of all parameters, and the types that parameters of several operations share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticKnownError

from pixtools.imaging.picture import Size
from pixtools.limits import Limits

ADVANCED: dict[str, Any] = {"advanced": True}
"""JSON schema entry of a parameter that few users change. The page hides this parameter under "More"."""


def _within_side_limit(side: int, info: ValidationInfo) -> int:
    """Check a side against the `Limits` in the validation context. Without a context there is no upper limit."""
    if isinstance(info.context, Limits) and side > info.context.side:
        raise PydanticKnownError("less_than_equal", {"le": info.context.side})
    return side


Side = Annotated[int, Field(ge=1, json_schema_extra={"format": "side"}), AfterValidator(_within_side_limit)]
"""Width or height in pixels. The upper limit is a setting: pass a `pixtools.limits.Limits` as validation context."""

Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", json_schema_extra={"format": "color"})]
"""An sRGB colour, `#rrggbb`."""

PartName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", json_schema_extra={"format": "part"})]
"""The name of a part: a further file of the request, such as a logo."""


class UnsuitableParameter(ValueError):
    """A parameter is valid but does not suit the picture. `field` is the name of the parameter to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Params(BaseModel):
    """Parameters of one operation.

    Unknown fields, wrong types, NaN and infinity are rejected. Values are never adjusted. Instances cannot be changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, as JSON data. The service stores and shows these values."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def identity(self) -> dict[str, Any]:
        """Return the values that decide the result, as JSON data. The step key contains these values."""
        return self.given()


class PixelParams(Params):
    """Parameters of an operation that makes pixels from pixels."""

    @property
    def adds_alpha(self) -> bool:
        """Whether the operation may make an opaque picture transparent."""
        return False

    def size(self, size: Size) -> Size:
        """Return the size of the result for a picture of `size`.

        Raises UnsuitableParameter if a parameter does not suit this size.
        """
        return size

    def needed_size(self, size: Size) -> Size:
        """Return the size of a picture of `size` after scaling. So the decoder may shrink it to about this size."""
        return size


class TransformParams(PixelParams):
    """Parameters of an operation whose result is not always stored.

    The result is stored in three cases: no step reads it, a bundle contains it, or `keep` is set.
    """

    keep: bool = Field(
        default=False,
        title="Keep",
        description="store the result as a lossless PNG even if other steps read its pixels",
        json_schema_extra=ADVANCED,
    )

    def identity(self) -> dict[str, Any]:
        """Return the values that decide the result. `keep` only decides whether the result is stored."""
        return {name: value for name, value in self.given().items() if name != "keep"}
