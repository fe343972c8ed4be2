"""Draws the scenes for the pictures in the documents, so that no photo by another person is needed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Scene = NDArray[np.float64]
"""(H, W, 3) RGB: 0 is black and 1 is white. Values above 1 are possible."""

_SUPERSAMPLING = 3  # draw lines at three times the size and scale them down, so that their edges are smooth
_STRIPES = ["#f4f0e6", "#d8432f", "#f0b429", "#2f7f86"]


def dunes(width: int, height: int) -> Scene:
    """Draw hills under a low sun."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    sky = np.stack([0.98 - 0.35 * y, 0.42 + 0.5 * y, 0.55 - 0.1 * y], -1)
    glow = np.exp(-((x - 0.68) ** 2 + (0.67 * (y - 0.36)) ** 2) / 0.006)[..., None]
    scene = sky + glow * np.array([0.4, 0.5, 0.35])
    hues = [(0.93, 0.45, 0.42), (0.75, 0.27, 0.47), (0.47, 0.17, 0.49), (0.22, 0.1, 0.37), (0.08, 0.06, 0.2)]
    for layer, hue in enumerate(hues):
        ridge = 0.45 + 0.12 * layer + 0.05 * np.sin(x * (5 + 2 * layer) + 2.3 * layer) + 0.02 * np.sin(x * 17 + layer)
        edge = np.clip((y - ridge) * height / 2, 0, 1)[..., None]
        lit = np.array(hue) * (1 + 0.35 * np.clip(1 - (y - ridge) * 9, 0, 1)[..., None])
        scene = scene * (1 - edge) + lit * edge
    return scene


def festival(width: int, height: int) -> Scene:
    """Draw the dunes with details that a denoiser may lose: ripples in sand, grass, and seams and ropes of balloons."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    ripples = np.sin(2 * math.pi * (28 * y + 2 * np.sin(5 * x + 3 * y) + 0.4 * np.sin(23 * x)))
    sand = dunes(width, height) * (1 + 0.22 * (ripples * np.clip((y - 0.5) * 4, 0, 1))[..., None])
    canvas = Image.fromarray(np.uint8(np.clip(sand, 0, 1) * 255)).resize(
        (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    )
    draw = ImageDraw.Draw(canvas)
    _balloon(draw, width / 2 * _SUPERSAMPLING, height * 0.36 * _SUPERSAMPLING, height * 0.27 * _SUPERSAMPLING)
    _balloon(draw, width * 0.16 * _SUPERSAMPLING, height * 0.3 * _SUPERSAMPLING, height * 0.09 * _SUPERSAMPLING)
    _balloon(draw, width * 0.87 * _SUPERSAMPLING, height * 0.22 * _SUPERSAMPLING, height * 0.07 * _SUPERSAMPLING)
    _grass(draw, rng, width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX)) / 255


def _balloon(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    def edge(turn: float) -> list[tuple[float, float]]:
        """Return a line down the envelope, round at the top and narrow at the bottom.

        `turn` is from -1 (left edge) to 1 (right edge).
        """
        angles = [math.pi * step / 60 for step in range(49)]
        return [(x + radius * turn * math.sin(a) ** 0.85, y - radius * 1.08 * math.cos(a)) for a in angles]

    turns = [math.sin(math.pi * (step / 12 - 0.5)) for step in range(13)]
    for number, (left, right) in enumerate(pairwise(turns)):
        draw.polygon(edge(left) + edge(right)[::-1], fill=_STRIPES[number % len(_STRIPES)])
        draw.line(edge(right), fill="#3a2233", width=max(1, round(radius / 110)))
    mouth, top, bottom = edge(1)[-1][0] - x, edge(1)[-1][1], y + radius * 1.42
    for rope in (-1.0, -0.4, 0.4, 1.0):
        draw.line([(x + rope * mouth, top), (x + rope * radius * 0.14, bottom)], fill="#3a2233", width=_SUPERSAMPLING)
    basket = (x - radius * 0.15, bottom, x + radius * 0.15, bottom + radius * 0.2)
    draw.rectangle(basket, fill="#8a5a2b", outline="#3a2233", width=_SUPERSAMPLING)
    for row in range(1, 4):
        weave = bottom + radius * 0.05 * row
        draw.line([(basket[0], weave), (basket[2], weave)], fill="#5c3a1a", width=_SUPERSAMPLING)


def _grass(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    for depth in np.sort(rng.uniform(0, 1, 900)):
        foot = height * (0.93 + 0.1 * depth)
        x, lean, length = rng.uniform(0, width), rng.normal(0, 0.03), rng.uniform(0.05, 0.16) * (0.6 + depth)
        light = rng.uniform(0.25, 1)
        tip = (x + lean * height, foot - length * height)
        color = (int(236 * light), int(176 * light), int(92 * light))
        draw.line(
            [(x, foot), (x + lean * height * 0.3, foot - length * height * 0.6), tip], fill=color, width=_SUPERSAMPLING
        )
