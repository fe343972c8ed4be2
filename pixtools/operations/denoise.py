from __future__ import annotations

from pydantic import Field

from pixtools.denoising.restoration import Noise
from pixtools.operations.base import Inference, PixelParams
from pixtools.operations.png import PNG


class Denoise(PixelParams):
    strength: float = Field(
        1.0, ge=0, le=1, title="Strength", description="how much of the noise goes; less leaves some of the grain"
    )
    noise: Noise = Field(
        "any",
        title="Noise",
        description="any takes away whatever is there; auto leaves a picture alone in which it finds none to speak of",
    )


# What it makes depends on the weights too: their digest is part of step keys.
DENOISE = Inference(
    name="denoise",
    title="Denoise",
    summary="Takes the noise out of a photo by a neural network, DnCNN, and says how much there was.",
    version=1,
    params=Denoise,
    cost=lambda _: PNG.cost(PNG.params()),
    memory=lambda _: PNG.memory(PNG.params()),
)
