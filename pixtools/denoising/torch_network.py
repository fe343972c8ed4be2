"""DnCNN in PyTorch. This reference implementation is used for training, and on a GPU."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from pixtools.denoising.dncnn import CHANNELS, DEPTH, WIDTH


class DnCNN(nn.Module):
    """The network. Its parameters have the names and shapes of `dncnn.Weights`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([CHANNELS, *[WIDTH] * (DEPTH - 1), CHANNELS]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, noisy: Tensor) -> Tensor:
        """Predict the noise of pictures.

        `noisy` and the noise are floating-point (N, 3, H, W). In `noisy`, 0 is black and 1 is white.
        """
        noise: Tensor = self.model(noisy)
        return noise
