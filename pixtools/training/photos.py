"""What the denoiser learns from: patches of clean photos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
# A photo scaled down shows more detail a pixel, and less of what JPEG did to it.
SCALES = (1.0, 0.9, 0.8, 0.7)
HELD_OUT = 27  # of each folder's photos every so manieth is kept for the validation

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


def read(path: Path, scale: float = 1.0) -> Pixels:
    with _open(path) as opened:
        image = opened.convert("RGB")
    if scale != 1.0:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): take it out of its folder") from error


def check(paths: Iterable[Path], least: int) -> None:
    """Look at the size of photos; raises ValueError for one with a side of less than `least` pixels."""
    for path in paths:
        with _open(path) as image:
            if min(image.size) < least:
                raise ValueError(
                    f"{path} has {image.width} × {image.height} pixels, too few for patches: take it out of its "
                    f"folder, or put one of at least {least} × {least} in its place"
                )


def find(folder: Path) -> list[Path]:
    """List the photos of a folder in the order of their names; raises FileNotFoundError where there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"There is no photo in {folder}: expected files with {', '.join(sorted(SUFFIXES))}")
    return found


def split(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Split the photos of some folders: those to learn from, and those to judge by.

    Raises FileNotFoundError where a folder has no photo, and ValueError where none is left to learn from.
    """
    learn, judge = [], []
    for folder in folders:
        found = find(folder)
        judge += found[::HELD_OUT]
        learn += [path for n, path in enumerate(found) if n % HELD_OUT]
    if not learn:
        raise ValueError("The photo of each folder is held out to judge by, and none is left to learn from: add some")
    return learn, judge


class Photos:
    """Clean photos in memory, at several scales, from each of which patches of `side` can be cut.

    Raises ValueError, naming the photo, where one cannot be read or is too small.
    """

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        check(paths, math.ceil(side / min(SCALES)))
        self._images = [read(path, scale) for path in paths for scale in SCALES]
        # A large photo is drawn more often, but by less than it is larger: its pixels are like each other.
        chances = np.sqrt([image.size for image in self._images])
        self._ends = np.cumsum(chances / chances.sum())

    def patch(self, side: int, random: np.random.Generator) -> Pixels:
        """Cut a patch (side, side, 3) anywhere, turned and mirrored at random."""
        image = self._images[
            min(int(np.searchsorted(self._ends, random.random(), side="right")), len(self._images) - 1)
        ]
        top = random.integers(image.shape[0] - side + 1)
        left = random.integers(image.shape[1] - side + 1)
        patch: Pixels = np.rot90(image[top : top + side, left : left + side], int(random.integers(4)))
        return patch[:, ::-1] if random.integers(2) else patch


@dataclass(frozen=True)
class Shape:
    """The shape of a batch: `count` patches of `side` × `side` pixels."""

    count: int
    side: int

    @property
    def pixels(self) -> int:
        return self.count * self.side**2


class Batches(Dataset[Tensor]):
    """Batch n of a run: clean patches, uint8 (N, 3, side, side), channels last.

    It depends on the seed and n alone: a run that was interrupted goes on with the batches that it would have had.
    """

    def __init__(self, photos: Photos, shape: Shape, seed: int) -> None:
        self._photos, self._shape, self._seed = photos, shape, seed

    def __getitem__(self, n: int) -> Tensor:
        random = np.random.default_rng((self._seed, n))
        patches = np.stack([self._photos.patch(self._shape.side, random) for _ in range(self._shape.count)])
        return torch.from_numpy(patches).permute(0, 3, 1, 2)


def crops(paths: Sequence[Path], side: int) -> Tensor:
    """Cut the middle of each photo, for validation: uint8 (N, 3, side, side). Raises ValueError as Photos does."""
    check(paths, side)
    cut = []
    for image in map(read, paths):
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        cut.append(image[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()
