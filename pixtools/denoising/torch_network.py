"""DnCNN in PyTorch: the reference, what is trained, and what runs on a GPU."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from pixtools.denoising.dncnn import CHANNELS, DEPTH, WIDTH


class DnCNN(nn.Module):
    """Predicts the noise of a picture: float (N, 3, H, W), values of 0..1 and their noise, gives one of that shape."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([CHANNELS, *[WIDTH] * (DEPTH - 1), CHANNELS]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, noisy: Tensor) -> Tensor:
        noise: Tensor = self.model(noisy)
        return noise
