"""Denoising with DnCNN (Zhang et al., 2017), a convolutional network that predicts the noise of a picture.

This file declares the parameters. The network is in `pixtools/denoising/` and runs in a separate deployment.
"""

from __future__ import annotations

from pydantic import Field

from pixtools.denoising.engine import Blend, Effort
from pixtools.denoising.restoration import Noise
from pixtools.denoising.weights import WHITE_SHA256
from pixtools.operations.base.kinds import Inference
from pixtools.operations.base.params import ADVANCED, PixelParams
from pixtools.operations.png import PNG


class Denoise(PixelParams):
    """Parameters of the denoiser."""

    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Strength",
        description="fraction of the noise to remove; 0.6 to 0.8 leaves some grain, so photos look more natural",
    )
    chroma: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Colour noise",
        description="fraction of the colour noise to remove; by default the same as `strength`",
    )
    detail: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Detail",
        description="fraction of the fine grain that stays where the photo has strong texture",
    )
    noise: Noise = Field(
        "any",
        title="Noise",
        description=(
            "`any` denoises every picture. `auto` leaves a picture unchanged if hardly any noise is found. `white` "
            "uses weights for white noise, such as noise that a program has added. It hardly helps photos of cameras"
        ),
    )

    effort: Effort = Field(
        "normal",
        title="Effort",
        description="`fast` takes less time on some CPUs, and removes slightly less noise; on a GPU it has no effect",
        json_schema_extra=ADVANCED,
    )

    @property
    def blend(self) -> Blend:
        """The parts of the noise to remove."""
        return Blend(self.strength, self.strength if self.chroma is None else self.chroma, self.detail)

    @property
    def is_for_white_noise(self) -> bool:
        """Whether the picture is denoised with the weights for white noise."""
        return self.noise == "white"


# The result also depends on the weights, so the plan adds the digest of the weights to the step key: see `weights`.
DENOISE = Inference(
    name="denoise",
    title="Denoise",
    summary="Uses a neural network (DnCNN) to remove noise from a photo, and reports how much noise was found.",
    version=5,
    params=Denoise,
    cost=lambda _: PNG.cost(PNG.params()),
    memory=lambda _: PNG.memory(PNG.params()),
    weights=lambda params, for_photos: WHITE_SHA256 if params.is_for_white_noise else for_photos,
)
