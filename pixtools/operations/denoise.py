"""Denoising with DnCNN (Zhang et al., 2017), a convolutional network that predicts the noise of a picture.

This file declares the parameters. The network is in `pixtools/denoising/` and runs in a separate deployment.
"""

from __future__ import annotations

from pydantic import Field

from pixtools.denoising.restoration import Noise
from pixtools.operations.base.kinds import Inference
from pixtools.operations.base.params import PixelParams
from pixtools.operations.png import PNG


class Denoise(PixelParams):
    """Parameters of the denoiser."""

    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Strength",
        description="share of the noise to remove; 0.6 to 0.8 keeps some grain and looks more natural on photos",
    )
    noise: Noise = Field(
        "any",
        title="Noise",
        description="any removes whatever noise there is; auto leaves a picture unchanged if it finds no fine noise",
    )


# The weights decide the result too. The plan adds their digest to the step key.
DENOISE = Inference(
    name="denoise",
    title="Denoise",
    summary="Removes fine noise from a photo with a neural network (DnCNN), and reports how much noise it found.",
    version=1,
    params=Denoise,
    cost=lambda _: PNG.cost(PNG.params()),
    memory=lambda _: PNG.memory(PNG.params()),
)
