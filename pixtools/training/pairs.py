"""Pairs of photos: a noisy photo, and a clean photo of the same scene with the same size."""

from __future__ import annotations

from pathlib import Path

from pixtools.training.photo_file import upright_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
"""Endings of the names of photos, in lower case."""

# The clean file has the same name with the second ending. Data sets of camera noise use these endings.
_ENDINGS = {"_real": "_mean", "_noisy": "_clean", "_NOISY": "_GT"}

_SUBFOLDERS = ("noisy", "clean")


def find(folder: Path) -> list[Path]:
    """List the photos of a folder, sorted by name. Raises FileNotFoundError if there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"There is no photo in {folder}: expected files with the endings {', '.join(sorted(SUFFIXES))}"
        )
    return paths


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """List the pairs of a folder, each as noisy and clean, sorted by name.

    The folder has two subfolders `noisy` and `clean`, in which the two photos of a pair have the same name. Or it has
    both photos of a pair, whose names differ by their ends: `1_noisy.png` and `1_clean.png`, or `_real` and `_mean`, or
    `_NOISY` and `_GT`.

    Raises FileNotFoundError if there is no pair. Raises ValueError for a noisy photo without a clean one, for a pair of
    photos of different sizes, and for a file that cannot be read.
    """
    pairs = []
    for path in find(folder):
        clean = _clean_path(path)
        if clean is None:
            continue
        if not clean.exists():
            raise ValueError(f"{path} has no clean photo: add {clean}, or remove {path.name}")
        (width, height), (other_width, other_height) = upright_size(path), upright_size(clean)
        if (width, height) != (other_width, other_height):
            raise ValueError(
                f"{path} has {width} × {height} pixels and {clean.name} has {other_width} × {other_height}: the photos "
                "of a pair must have the same size"
            )
        pairs.append((path, clean))
    if not pairs:
        raise FileNotFoundError(
            f"There are no pairs in {folder}: expected the subfolders noisy and clean, or names like 1_noisy.png and "
            "1_clean.png"
        )
    return pairs


def _clean_path(path: Path) -> Path | None:
    """Return the path of the clean photo of a noisy photo, or None for another photo."""
    folder = path.parent
    if folder.name in _SUBFOLDERS and all(folder.with_name(name).is_dir() for name in _SUBFOLDERS):
        # A photo in the subfolder `clean` is always clean, even if its name ends with `_noisy`.
        return folder.with_name("clean") / path.name if folder.name == "noisy" else None
    for noisy, clean in _ENDINGS.items():
        if path.stem.endswith(noisy):
            return path.with_stem(path.stem.removesuffix(noisy) + clean)
    return None
