"""Compares one pass of the network with two passes, on patches of photos with synthetic noise.

    python benchmarks/denoise_two_passes.py BSD432 CC0 --threads 2

The folders are those of the training. Only the photos that the training holds out are used. The table has the mean
PSNR of the patches, in dB: of the noisy patches, after one pass ("one"), and after two passes of two kinds ("four" and
"half"). The model card describes both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from pixtools.denoising.dncnn import load_shipped, parse
from pixtools.denoising.engine import Blend
from pixtools.denoising.openvino_engine import OpenVINOEngine
from pixtools.training import noise
from pixtools.training.filters import blur
from pixtools.training.photos import Photos, split

SIDE = 192  # of a patch, in pixels
GRAIN_SIGMA = 15  # standard deviation of the grain, for pixel values of 0 to 255
GRAIN_BLURS = (0.8, 1.4, 2.0, 3.0)  # the grain is blurred by Gaussian kernels with these sigmas, in pixels

Picture = NDArray[np.float32]  # (SIDE, SIDE, 3), where 0..1 is black to white
Network = Callable[[Picture], Picture]
Patches = tuple[Picture, Picture]  # clean and noisy
Kind = Callable[[Photos, int, np.random.Generator], noise.Pair]


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="By default, the shipped weights."
)
@click.option("--patches", default=60, show_default=True, help="The number of patches of each kind of noise.")
@click.option("--threads", default=1, show_default=True)
def main(folders: tuple[Path, ...], weights: Path | None, patches: int, threads: int) -> None:
    """Print one line for each kind of noise."""
    loaded = parse(weights.read_bytes(), weights.name) if weights else load_shipped()
    engine = OpenVINOEngine(loaded, threads)
    at_full_strength = np.array([Blend().as_row()], np.float32)

    def network(picture: Picture) -> Picture:
        result: Picture = engine.denoise(np.ascontiguousarray(picture[None]), at_full_strength).tiles[0]
        return result

    _, held_out = split(folders)
    photos = Photos(held_out, SIDE + noise.MARGIN)
    print(f"{'noise':20} {'noisy':>6} {'one':>6} {'four':>6} {'half':>6}")
    for title, kind in kinds():
        rows = [scores(network, pair) for pair in pairs(kind, photos, patches)]
        print(f"{title:20} " + " ".join(f"{score:6.2f}" for score in np.mean(rows, axis=0)), flush=True)


def kinds() -> Iterator[tuple[str, Kind]]:
    """Yield each kind of noise with its title: first the kinds of the training, then grain with several blurs."""
    yield from ((kind.__name__, kind) for _, kind in noise.KINDS)
    yield from ((f"grain, blur {blur_sigma:g}", grain(blur_sigma)) for blur_sigma in GRAIN_BLURS)


def grain(blur_sigma: float) -> Kind:
    """Return a function that adds grain to a patch.

    The grain is blurred Gaussian noise. It is scaled to the standard deviation GRAIN_SIGMA.
    """

    def kind(photos: Photos, side: int, random: np.random.Generator) -> noise.Pair:
        clean = torch.from_numpy(photos.patch(side, random).astype(np.float32) / 255).permute(2, 0, 1)
        blurred = blur(torch.from_numpy(random.standard_normal(tuple(clean.shape), np.float32)), blur_sigma)
        return clean, (clean + blurred / blurred.std() * (GRAIN_SIGMA / 255)).clamp(0, 1)

    return kind


def pairs(kind: Kind, photos: Photos, patches: int) -> Iterator[Patches]:
    """Yield clean patches and their noisy copies. Each call yields the same patches."""
    random = np.random.default_rng(1)
    for _ in range(patches):
        clean, noisy = (each.permute(1, 2, 0).contiguous().numpy() for each in kind(photos, SIDE, random))
        yield clean, noisy


def scores(network: Network, pair: Patches) -> Sequence[float]:
    """Return the PSNR of the noisy picture, and of the results of one pass and of the two methods with two passes."""
    clean, noisy = pair
    results = noisy, network(noisy), network(in_four(network, noisy)), network(at_half(network, noisy))
    return [psnr(result, clean) for result in results]


def in_four(network: Network, picture: Picture) -> Picture:
    """Denoise four small pictures, each with every second pixel of every second row, and put them together again."""
    result = np.empty_like(picture)
    for top in range(2):
        for left in range(2):
            result[top::2, left::2] = network(picture[top::2, left::2])
    return result


def at_half(network: Network, picture: Picture) -> Picture:
    """Find the noise at half the resolution, and subtract it."""
    half: Picture = picture.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(1, 3))
    found = half - network(half)
    return picture - found.repeat(2, axis=0).repeat(2, axis=1)


def psnr(picture: Picture, clean: Picture) -> float:
    """Return the PSNR in dB of a picture that is first clipped to 0..1."""
    return float(-10 * np.log10(np.mean((picture.clip(0, 1) - clean) ** 2)))


if __name__ == "__main__":
    main()
