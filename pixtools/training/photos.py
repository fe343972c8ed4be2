"""The training data. This module finds clean photos, holds some of them out for validation, and cuts patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pixtools.training import noise
from pixtools.training.pairs import find, find_pairs
from pixtools.training.photo_file import Pixels, read_photo, upright_size

# Photos are used at these sizes. A photo that is scaled down has more detail for each pixel, and weaker JPEG artefacts.
SCALES = (1.0, 0.9, 0.8, 0.7)
HELD_OUT_INTERVAL = 27  # every 27th photo of a folder is held out for validation

T = TypeVar("T")

PairPaths = tuple[Path, Path]
"""The paths of a noisy and a clean photo."""

Draw = Callable[[int, np.random.Generator], noise.Pair]
"""Returns a clean patch and its noisy copy. The arguments are the side of the patch, and the source of randomness."""


def min_photo_side(side: int) -> int:
    """Return the smallest side of a photo that gives patches of `side` × `side` pixels at each of SCALES."""
    return math.ceil(side / min(SCALES))


def check_sizes(paths: Iterable[Path], min_side: int) -> None:
    """Raise ValueError, with the names of all small photos, if photos have a side of less than `min_side` pixels.

    Raises ValueError for the first photo that cannot be read.
    """
    sizes = {path: upright_size(path) for path in paths}
    small = [f"{path} ({width} × {height})" for path, (width, height) in sizes.items() if min(width, height) < min_side]
    if small:
        raise ValueError(
            f"Photos must have at least {min_side} × {min_side} pixels. Remove these from their folders, or replace "
            f"them: {', '.join(small)}"
        )


def split(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the photos of all folders for training, and the photos that are held out for validation.

    Raises FileNotFoundError if a folder has no photo, and ValueError if no photo is left for training.
    """
    return _split([find(folder) for folder in folders])


def split_pairs(folders: Iterable[Path]) -> tuple[list[PairPaths], list[PairPaths]]:
    """Return the pairs of noisy and clean photos, as `split` does. Raises the same errors, and those of find_pairs."""
    return _split([find_pairs(folder) for folder in folders])


def _split(listed: Sequence[Sequence[T]]) -> tuple[list[T], list[T]]:
    held_out = [each for found in listed for each in found[::HELD_OUT_INTERVAL]]
    training = [each for found in listed for n, each in enumerate(found) if n % HELD_OUT_INTERVAL]
    if listed and not training:
        raise ValueError("Each folder has one photo, which is held out, so none is left for training: add more photos")
    return training, held_out


class Photos:
    """Clean photos in memory, at several scales. `patch` cuts patches of up to `side` × `side` pixels.

    Raises ValueError like check_sizes.
    """

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        check_sizes(paths, min_photo_side(side))
        self._images = [read_photo(path, scale) for scale in SCALES for path in paths]
        self._whole = len(paths)  # the first images have the scale 1
        # A large photo is chosen more often: in proportion to the square root of its number of pixels. The number of
        # pixels itself would favour large photos too much, because the patches of one photo resemble each other.
        weights = np.sqrt([image.size for image in self._images])
        self._ends = np.cumsum(weights / weights.sum())

    def patch(self, side: int, random: np.random.Generator, *, whole: bool = False) -> Pixels:
        """Cut a patch (side, side, 3) at a random position of a random photo. Rotate and mirror the patch at random.

        With `whole`, the photo has its full size. If the photo is too small, the patch is as large as possible.
        """
        last = self._whole - 1 if whole else len(self._images) - 1
        number = np.searchsorted(self._ends, random.random() * self._ends[last], side="right")
        image = self._images[min(int(number), last)]
        return _patch(image, min(side, *image.shape[:2]), random)


class PairedPhotos:
    """Pairs of noisy and clean photos in memory. `patch` cuts patches of `side` × `side` pixels.

    Raises ValueError like Photos.
    """

    def __init__(self, pairs: Sequence[PairPaths], side: int) -> None:
        check_sizes((noisy for noisy, _ in pairs), side)
        self._images = [np.concatenate([read_photo(clean), read_photo(noisy)], axis=2) for noisy, clean in pairs]

    def patch(self, side: int, random: np.random.Generator) -> noise.Pair:
        """Cut a patch at the same position of both photos of a random pair. Rotate and mirror it at random."""
        image = self._images[random.integers(len(self._images))]
        both = torch.from_numpy(_patch(image, side, random).astype(np.float32) / 255).permute(2, 0, 1)
        return both[:3], both[3:]


def _patch(image: Pixels, side: int, random: np.random.Generator) -> Pixels:
    """Cut a patch at a random position. Rotate and mirror it at random."""
    top = random.integers(image.shape[0] - side + 1)
    left = random.integers(image.shape[1] - side + 1)
    patch: Pixels = np.rot90(image[top : top + side, left : left + side], int(random.integers(4)))
    return patch[:, ::-1] if random.integers(2) else patch


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch: `count` patches of `side` × `side` pixels. `side` is even."""

    count: int
    side: int


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batches of a run by their numbers: clean patches, float32 (N, 3, side, side) in 0..1, and noisy copies.

    A batch depends only on its number and the seed. So an interrupted run continues with the same batches as a run
    without interruption.
    """

    def __init__(self, draw: Draw, shape: BatchShape, seed: int) -> None:
        self._draw, self._shape, self._seed = draw, shape, seed

    def __getitem__(self, n: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self._seed, n))
        pairs = [self._draw(self._shape.side, random) for _ in range(self._shape.count)]
        clean, noisy = zip(*pairs, strict=True)
        return torch.stack(clean), torch.stack(noisy)
