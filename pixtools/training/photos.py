"""The training data. This module finds clean photos, holds some of them out for validation, and cuts patches."""

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
# Photos are used at these sizes. A photo that is scaled down has more detail for each pixel, and weaker JPEG artefacts.
SCALES = (1.0, 0.9, 0.8, 0.7)
HELD_OUT_INTERVAL = 27  # every 27th photo of a folder is held out for validation

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


def read(path: Path, scale: float = 1.0) -> Pixels:
    """Read a photo and scale its sides by `scale`. Raises ValueError with the file's name if that fails."""
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
        raise ValueError(f"{path} cannot be read ({error}): remove it from its folder") from error


def check(paths: Iterable[Path], min_side: int) -> None:
    """Check the sizes of photos. Raises ValueError for a photo with a side of less than `min_side` pixels."""
    for path in paths:
        with _open(path) as image:
            if min(image.size) < min_side:
                raise ValueError(
                    f"{path} has {image.width} × {image.height} pixels, too few for patches: remove it from its "
                    f"folder, or replace it by a photo of at least {min_side} × {min_side}"
                )


def find(folder: Path) -> list[Path]:
    """List the photos of a folder, sorted by name. Raises FileNotFoundError if there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"There is no photo in {folder}: expected files with the endings {', '.join(sorted(SUFFIXES))}"
        )
    return paths


def split(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the photos of all folders for training, and the photos that are held out for validation.

    Raises FileNotFoundError if a folder has no photo, and ValueError if no photo is left for training.
    """
    training, held_out = [], []
    for folder in folders:
        paths = find(folder)
        held_out += paths[::HELD_OUT_INTERVAL]
        training += [path for n, path in enumerate(paths) if n % HELD_OUT_INTERVAL]
    if not training:
        raise ValueError("Each folder has one photo, which is held out, so none is left for training: add more photos")
    return training, held_out


class Photos:
    """Clean photos in memory, at several scales. `patch` cuts patches of up to `side` × `side` pixels.

    Raises ValueError, with the photo's name, if a photo cannot be read or is too small.
    """

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        check(paths, math.ceil(side / min(SCALES)))
        self._images = [read(path, scale) for path in paths for scale in SCALES]
        # A large photo is chosen more often: in proportion to the square root of its number of pixels. The number of
        # pixels itself would favour large photos too much, because the patches of one photo resemble each other.
        weights = np.sqrt([image.size for image in self._images])
        self._ends = np.cumsum(weights / weights.sum())

    def patch(self, side: int, random: np.random.Generator) -> Pixels:
        """Cut a patch (side, side, 3) at a random position of a random photo. Rotate and mirror the patch at random."""
        image = self._images[
            min(int(np.searchsorted(self._ends, random.random(), side="right")), len(self._images) - 1)
        ]
        top = random.integers(image.shape[0] - side + 1)
        left = random.integers(image.shape[1] - side + 1)
        patch: Pixels = np.rot90(image[top : top + side, left : left + side], int(random.integers(4)))
        return patch[:, ::-1] if random.integers(2) else patch


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch: `count` patches of `side` × `side` pixels."""

    count: int
    side: int


class Batches(Dataset[Tensor]):
    """The batches of a run by their numbers: clean patches, uint8 (N, 3, side, side), channels last in memory.

    A batch depends only on its number and the seed. So an interrupted run continues with the same batches as a run
    without interruption.
    """

    def __init__(self, photos: Photos, shape: BatchShape, seed: int) -> None:
        self._photos, self._shape, self._seed = photos, shape, seed

    def __getitem__(self, n: int) -> Tensor:
        random = np.random.default_rng((self._seed, n))
        patches = np.stack([self._photos.patch(self._shape.side, random) for _ in range(self._shape.count)])
        return torch.from_numpy(patches).permute(0, 3, 1, 2)


def crops(paths: Sequence[Path], side: int) -> Tensor:
    """Cut the middle of each photo, for validation: uint8 (N, 3, side, side). Raises ValueError like Photos."""
    check(paths, side)
    cut = []
    for image in map(read, paths):
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        cut.append(image[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()
