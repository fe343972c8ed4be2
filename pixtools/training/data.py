"""The data of a run: where its patches come from, and the sets on which it is validated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixtools.training import noise
from pixtools.training.photo_file import Pixels, read_photo
from pixtools.training.photos import (
    Draw,
    PairedPhotos,
    PairPaths,
    Photos,
    check_sizes,
    min_photo_side,
    split,
    split_pairs,
)

SIGMAS = (15, 25, 50)  # of white noise, for validation

Sets = dict[str, tuple[Tensor, Tensor]]
"""Clean patches, float32 (N, 3, side, side) in 0..1, and noisy copies, by the name of the set."""


@dataclass(frozen=True)
class Data:
    """The data of a run."""

    draw: Draw
    sets: Sets
    used: int
    """Number of photos and pairs for training."""

    held_out: int
    """Number of photos and pairs for validation."""

    digest: str
    """SHA-256 of the name and the number of bytes of each file, in order. The order decides which photos are held out.
    Paths do not count, so the photos may move. Changed content is not noticed if the number of bytes stays the same."""


def load(folders: Sequence[Path], pair_folders: Sequence[Path], patch_side: int, crop_side: int) -> Data:
    """Load the clean photos of `folders`, and the pairs of noisy and clean photos of `pair_folders`.

    With both, half of the patches come from pairs. `patch_side` is the side of the largest patches, and `crop_side` the
    side of the pictures for validation. Every photo must be large enough for both sides. Raises ValueError or
    FileNotFoundError, with the file's or folder's name, if there are too few photos, if a photo cannot be used, or if a
    photo is listed twice.
    """
    if not (folders or pair_folders):
        raise ValueError("There are no photos: give a folder of clean photos, or --pairs with a folder of pairs")
    photos, held_photos = split(folders)
    pairs, held_pairs = split_pairs(pair_folders)
    files = [*held_photos, *photos, *(path for pair in (*held_pairs, *pairs) for path in pair)]
    _check_listed_once(files)
    # All photos have the same minimum size. If photos are added or removed, a photo for training may become a photo for
    # validation.
    min_side = max(patch_side, crop_side)
    check_sizes([*held_photos, *photos], min_photo_side(min_side + noise.MARGIN))
    # The photos of a pair have equal sizes: see find_pairs.
    check_sizes((noisy for noisy, _ in (*held_pairs, *pairs)), min_side)
    draws: list[Draw] = []
    if photos:
        source = Photos(photos, patch_side + noise.MARGIN)
        draws.append(lambda side, random: noise.pair(source, side, random))
    if pairs:
        draws.append(PairedPhotos(pairs, patch_side).patch)
    sets = validation_sets(held_photos, crop_side) if held_photos else {}
    if held_pairs:
        sets["pairs"] = _middles(held_pairs, crop_side)
    return Data(
        lambda side, random: draws[random.integers(len(draws))](side, random),
        sets,
        len(photos) + len(pairs),
        len(held_photos) + len(held_pairs),
        _digest(files),
    )


def _check_listed_once(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(
                f"{path} is listed twice: give each folder once, and keep pairs outside of the folders of clean photos"
            )
        seen.add(path.resolve())


def _digest(paths: Sequence[Path]) -> str:
    names = "".join(f"{path.name} {path.stat().st_size}\n" for path in paths)
    return hashlib.sha256(names.encode()).hexdigest()


def validation_sets(paths: Sequence[Path], side: int) -> Sets:
    """Return sets of patches of `side` × `side` pixels from clean photos.

    The names `15`, `25` and `50` are the standard deviations of white noise, which the middles of the photos get. The
    sets `camera` and `clean` have noise of these kinds: see `noise.camera` and `noise.nearly_clean`. Each call returns
    the same sets. Raises ValueError like Photos.
    """
    photos = Photos(paths, side + noise.MARGIN)
    clean = _stacked([_middle(read_photo(path), side) for path in paths])
    sets = {}
    for sigma in SIGMAS:
        random = np.random.default_rng(sigma)
        added = torch.from_numpy(random.standard_normal(clean.shape, np.float32))
        sets[str(sigma)] = clean, clean + added * (sigma / 255)
    for name, kind in (("camera", noise.camera), ("clean", noise.nearly_clean)):
        random = np.random.default_rng(0)
        pairs = [kind(photos, side, random) for _ in range(2 * len(paths))]
        sets[name] = torch.stack([each[0] for each in pairs]), torch.stack([each[1] for each in pairs])
    return sets


def _middles(pairs: Sequence[PairPaths], side: int) -> tuple[Tensor, Tensor]:
    noisy, clean = (_stacked([_middle(read_photo(path), side) for path in paths]) for paths in zip(*pairs, strict=True))
    return clean, noisy


def _stacked(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)


def _middle(image: Pixels, side: int) -> Pixels:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
