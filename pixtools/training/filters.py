"""Filters for pictures and for noise, float32 (C, H, W)."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # BT.601, as in JPEG


def luma_and_chroma(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Split a picture (3, H, W) into its luma (1, H, W) and its chroma (3, H, W). Their sum is the picture."""
    luma = (picture * _LUMA).sum(0, keepdim=True)
    return luma, picture - luma


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Blur a picture with a Gaussian kernel of the standard deviation `sigma`, in pixels."""
    radius = math.ceil(3 * sigma)
    if not radius:
        return picture
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = pad(picture[:, None], (radius,) * 4, "reflect")
    return conv2d(conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def resize(picture: Tensor, side: int) -> Tensor:
    """Resize a square picture to `side` × `side` pixels, with a bicubic kernel. The result is clipped to 0..1."""
    return interpolate(picture[None], (side, side), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


def jpeg(picture: Tensor, quality: int, subsampling: str) -> Tensor:
    """Save a picture of 0..1 as a JPEG, and read it. `subsampling` is "4:4:4", "4:2:2" or "4:2:0"."""
    levels = picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float().div(255)
