"""The noise that a digital camera adds to a photo.

The noise begins in the sensor, where it depends on the brightness. Then it passes through everything that the camera
does to the picture, and through the JPEG files in which the picture is saved. So it becomes coarse and coloured, and
differs from white noise.

The steps from the photo back to the sensor, and their parameters, are from T. Brooks, B. Mildenhall, T. Xue, J. Chen,
D. Sharlet, J. T. Barron, "Unprocessing Images for Learned Raw Denoising", CVPR 2019. The way of adding the noise to the
photo is from S. Guo, Z. Yan, K. Zhang, W. Zuo, L. Zhang, "Toward Convolutional Blind Denoising of Real Photographs",
CVPR 2019: the photo gets the difference between the developed noisy picture and the developed clean picture. So a
photo keeps its own sharpness.

Pictures are float32 (3, H, W) in RGB. 0 is black and 1 is white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from pixtools.training.filters import blur, luma_and_chroma

SHOT_VARIANCE = (math.log(5e-5), math.log(0.012))
"""The range of the logarithm of the shot noise: the variance that the sensor adds for each unit of light. Brooks et al.
measured 1e-4 to 0.012 on the Darmstadt Noise Dataset. The lower end is extended to sensors with less noise."""

_FROM_XYZ = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
"""Matrices from XYZ to the colours of four sensors (Brooks et al.)."""

_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""IEC 61966-2-1."""

_GAMMA = 2.2
_BRIGHT = 0.9  # from here on, the inverse gains become weaker, so that white stays white (Brooks et al.)

# The colour that the sensor sees at each pixel: 0, 1, 2 for red, green, blue.
_BAYER = np.array([[0, 1], [1, 2]])

# Demosaicking by averages of the nearest pixels: for green, and for red and blue.
_BILINEAR_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
_BILINEAR_OTHER = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4

# Demosaicking with corrections by the other colours (H. Malvar, L. He, R. Cutler, "High-Quality Linear Interpolation
# for Demosaicing of Bayer-Patterned Color Images", ICASSP 2004): green at red or blue; red or blue at a green pixel
# whose row has that colour; the same for the column; and red at blue, or blue at red.
_CROSS = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
_ROW = np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
_DIAGONAL = (
    np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]) / 8
)
_MALVAR = torch.from_numpy(np.stack([_CROSS, _ROW, _ROW.T, _DIAGONAL])[:, None]).float()
_BILINEAR = torch.from_numpy(np.stack([_BILINEAR_OTHER, _BILINEAR_GREEN, _BILINEAR_OTHER])[:, None]).float()


def chance(random: np.random.Generator, probability: float) -> bool:
    """Return true with this probability."""
    return bool(random.random() < probability)


@dataclass(frozen=True)
class Camera:
    """A camera at one setting."""

    shot: float
    """The variance of the noise that light causes, for a pixel of value 1. It grows in proportion to the value."""

    read: float
    """The variance of the noise that does not depend on light."""

    to_sensor: Tensor
    """The matrix (3, 3) from linear sRGB to the colours of the sensor."""

    gains: Tensor
    """The factors (3,) of the white balance, and of the brightness."""

    tone_curve: bool
    """Whether the camera raises the contrast, with the curve 3x² - 2x³."""

    malvar: bool
    """Which demosaicking it uses: Malvar's, or bilinear."""

    pattern: tuple[int, int]
    """The position of the first red pixel: row and column, each 0 or 1."""

    luma_blur: float = 0.0
    chroma_blur: float = 0.0
    """How strongly the camera smooths its noise: standard deviations of Gaussian kernels, in pixels."""

    sharpening: float = 0.0
    """How strongly the camera sharpens: the factor of an unsharp mask with a radius of one pixel."""

    @staticmethod
    def random(random: np.random.Generator) -> Camera:
        """Draw a camera. The ranges without another source are estimates that are wide on purpose."""
        shot = random.uniform(*SHOT_VARIANCE)
        read = 2.18 * shot + 1.20 + random.normal(0, 0.26)  # (Brooks et al.)
        weights = random.random((4, 1, 1))
        to_sensor = (weights * _FROM_XYZ).sum(0) / weights.sum() @ _SRGB_TO_XYZ
        to_sensor /= to_sensor.sum(1, keepdims=True)
        brightness = 1 / max(0.4, random.normal(0.8, 0.1))
        balance = np.array([random.uniform(1.9, 2.4), 1.0, random.uniform(1.5, 1.9)])
        smooths = chance(random, 0.65)
        return Camera(
            math.exp(shot),
            math.exp(read),
            torch.from_numpy(to_sensor).float(),
            torch.from_numpy(balance * brightness).float(),
            tone_curve=chance(random, 0.5),
            malvar=chance(random, 0.6),
            pattern=(int(random.integers(2)), int(random.integers(2))),
            luma_blur=random.uniform(0.2, 1.2) if smooths else 0.0,
            chroma_blur=math.exp(random.uniform(math.log(0.8), math.log(3))) if smooths else 0.0,
            sharpening=random.uniform(0.3, 1.2) if chance(random, 0.4) else 0.0,
        )

    def noise(self, clean: Tensor, random: np.random.Generator) -> Tensor:
        """Return the noise (3, H, W) of a photo by this camera. `clean` (3, H, W) is the photo without noise.

        Within four pixels of the edges, the noise differs from that of the other pixels.
        """
        raw = self.to_raw(clean)
        sensor = self.mosaic(raw)
        deviation = (self.shot * sensor + self.read).sqrt()
        noisy = sensor + deviation * torch.from_numpy(random.standard_normal(sensor.shape, np.float32))
        developed = self.develop(self.demosaic(torch.stack([noisy, sensor])))
        return self._processed(developed[0] - developed[1])

    def to_raw(self, picture: Tensor) -> Tensor:
        """Return the colours (3, H, W) that the sensor sees for a photo (3, H, W)."""
        if self.tone_curve:
            picture = 0.5 - torch.sin(torch.asin(1 - 2 * picture) / 3)
        linear = torch.einsum("ij,jhw->ihw", self.to_sensor, picture.clamp(min=1e-8) ** _GAMMA)
        weak = 1 / self.gains.view(3, 1, 1)
        bright = ((linear.mean(0) - _BRIGHT) / (1 - _BRIGHT)).clamp(0, 1).square()
        return (linear * torch.maximum(bright + (1 - bright) * weak, weak)).clamp(0, 1)

    def mosaic(self, raw: Tensor) -> Tensor:
        """Keep one colour for each pixel: (3, H, W) becomes (H, W)."""
        return (raw * self._masks(*raw.shape[1:])).sum(0)

    def demosaic(self, sensors: Tensor) -> Tensor:
        """Estimate the missing colours: (N, H, W) becomes (N, 3, H, W)."""
        masks = self._masks(*sensors.shape[1:])
        if not self.malvar:
            padded = pad(sensors[:, None] * masks, (1, 1, 1, 1), "reflect")
            return conv2d(padded, _BILINEAR, groups=3)
        cross, row, column, diagonal = conv2d(pad(sensors[:, None], (2, 2, 2, 2), "reflect"), _MALVAR).unbind(1)
        red, green, blue = masks
        red_rows = red.amax(1, keepdim=True)  # 1 in rows with red pixels
        in_red_rows, in_blue_rows = green * red_rows, green * (1 - red_rows)
        return torch.stack(
            [
                sensors * red + row * in_red_rows + column * in_blue_rows + diagonal * blue,
                sensors * green + cross * (red + blue),
                sensors * blue + row * in_blue_rows + column * in_red_rows + diagonal * red,
            ],
            1,
        )

    def develop(self, raw: Tensor) -> Tensor:
        """Turn colours of the sensor (N, 3, H, W) into pictures in sRGB: the inverse of `to_raw` for values of 0..1."""
        balanced = (raw * self.gains.view(3, 1, 1)).clamp(0, 1)
        linear = torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.to_sensor), balanced)
        picture = linear.clamp(1e-8, 1) ** (1 / _GAMMA)
        return 3 * picture.square() - 2 * picture**3 if self.tone_curve else picture

    def _masks(self, height: int, width: int) -> Tensor:
        """Return 1 where the sensor sees a colour, and else 0: (3, H, W)."""
        top, left = self.pattern
        colors = _BAYER[np.add.outer(np.arange(height) + top, np.zeros(width, int)) % 2, (np.arange(width) + left) % 2]
        return torch.from_numpy(np.stack([colors == color for color in range(3)])).float()

    def _processed(self, noise: Tensor) -> Tensor:
        """Smooth and sharpen noise (3, H, W) as the camera does."""
        luma, chroma = luma_and_chroma(noise)
        luma, chroma = blur(luma, self.luma_blur), blur(chroma, self.chroma_blur)
        luma = luma + self.sharpening * (luma - blur(luma, 1.0))
        return luma + chroma
