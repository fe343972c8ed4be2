from __future__ import annotations

from pydantic import Field

from pixtools.denoising.restoration import Noise
from pixtools.operations.base.kinds import Inference, PixelParams
from pixtools.operations.png import PNG


class Denoise(PixelParams):
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Strength",
        description="how much of the noise goes; 0.6 to 0.8 leaves some grain, and looks more natural on photos",
    )
    noise: Noise = Field(
        "any",
        title="Noise",
        description="any takes away what there is; auto leaves a picture as it is in which it finds no fine noise",
    )


# What it makes depends on the weights too: their digest is part of step keys.
DENOISE = Inference(
    name="denoise",
    title="Denoise",
    summary="Takes fine noise out of a photo by a neural network, DnCNN, and says how much there was.",
    version=1,
    params=Denoise,
    cost=lambda _: PNG.cost(PNG.params()),
    memory=lambda _: PNG.memory(PNG.params()),
)
