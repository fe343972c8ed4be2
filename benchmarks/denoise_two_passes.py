"""Compares one pass of the network with two passes, on patches of photos with synthetic noise.

    python benchmarks/denoise_two_passes.py BSD432 CC0 --threads 2

The folders are those of the training. Only the photos that the training holds out are used. All patches are rounded to
8 bits. The table has the mean PSNR of the patches in dB:

    noisy    of the noisy patches
    one      after one pass
    four     after two passes, the first on four small pictures
    half     after two passes, the first at half the resolution
    denoise  after the denoiser; it chooses between "one" and "half"

The last column, "two", is the share of patches for which the denoiser chooses two passes. The model card describes both
kinds of passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from pixtools.denoising.coarse_noise import CoarseNoise, at_half
from pixtools.denoising.dncnn import load_shipped, parse
from pixtools.denoising.engine import Blend, Pixels
from pixtools.denoising.openvino_engine import OpenVINOEngine
from pixtools.denoising.restoration import denoise
from pixtools.denoising.tiles import Box
from pixtools.training import noise
from pixtools.training.filters import blur
from pixtools.training.photos import Photos, split

SIDE = 192  # of a patch, in pixels
ROUNDING = 1 / 12  # mean square of the error that rounding causes
GRAIN_SIGMA = 15  # standard deviation of the grain, for pixel values of 0 to 255
GRAIN_BLURS = (0.8, 1.4, 2.0, 3.0)  # the grain is blurred by Gaussian kernels with these sigmas, in pixels
GREY_BLURS = (0.4, 0.6, 0.8, 1.4)  # of grain that is the same in all channels

Picture = Pixels  # (SIDE, SIDE, 3)
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
        result: Picture = engine.denoise(picture[None], at_full_strength).tiles[0]
        return result

    _, held_out = split(folders)
    photos = Photos(held_out, SIDE + noise.MARGIN)
    print(f"{'noise':20} {'noisy':>6} {'one':>6} {'four':>6} {'half':>6} {'denoise':>7} {'two':>5}")
    for title, kind in kinds():
        rows = [scores(engine, network, pair) for pair in pairs(kind, photos, patches)]
        *psnrs, chosen, share = np.mean(rows, axis=0)
        print(f"{title:20} " + " ".join(f"{each:6.2f}" for each in psnrs) + f" {chosen:7.2f} {share:5.0%}", flush=True)


def kinds() -> Iterator[tuple[str, Kind]]:
    """Yield each kind of noise with its title: first the kinds of the training, then grain with several blurs."""
    yield from ((kind.__name__, kind) for _, kind in noise.KINDS)
    yield from ((f"grain, blur {blur_sigma:g}", grain(blur_sigma, 3)) for blur_sigma in GRAIN_BLURS)
    yield from ((f"grey grain, blur {blur_sigma:g}", grain(blur_sigma, 1)) for blur_sigma in GREY_BLURS)


def grain(blur_sigma: float, channels: int) -> Kind:
    """Return a function that adds grain to a patch. With one channel, the grain is the same in all colours.

    The grain is blurred Gaussian noise. It is scaled to the standard deviation GRAIN_SIGMA.
    """

    def kind(photos: Photos, side: int, random: np.random.Generator) -> noise.Pair:
        clean = torch.from_numpy(photos.patch(side, random).astype(np.float32) / 255).permute(2, 0, 1)
        shape = channels, *clean.shape[1:]
        blurred = blur(torch.from_numpy(random.standard_normal(shape, np.float32)), blur_sigma)
        return clean, (clean + blurred / blurred.std() * (GRAIN_SIGMA / 255)).clamp(0, 1)

    return kind


def pairs(kind: Kind, photos: Photos, patches: int) -> Iterator[Patches]:
    """Yield clean patches and their noisy copies. Each call yields the same patches."""
    random = np.random.default_rng(1)
    for _ in range(patches):
        clean, noisy = (
            each.permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().contiguous().numpy()
            for each in kind(photos, SIDE, random)
        )
        yield clean, noisy


def scores(engine: OpenVINOEngine, network: Network, pair: Patches) -> Sequence[float]:
    """Return the numbers of the table for one patch."""
    clean, noisy = pair
    (chosen,), report = denoise(engine, noisy[None])
    results = noisy, network(noisy), network(in_four(network, noisy)), network(without_coarse(network, noisy)), chosen
    return [*(psnr(result, clean) for result in results), report.passes - 1]


def in_four(network: Network, picture: Picture) -> Picture:
    """Denoise four small pictures, each with every second pixel of every second row, and put them together again."""
    result = np.empty_like(picture)
    for top in range(2):
        for left in range(2):
            result[top::2, left::2] = network(picture[top::2, left::2])
    return result


def without_coarse(network: Network, picture: Picture) -> Picture:
    """Find the noise at half the resolution, and subtract it."""
    half = at_half(picture)
    result = picture.copy()
    CoarseNoise(half[None], network(half)[None]).subtract(result, 0, Box(0, 0, SIDE, SIDE))
    return result


def psnr(picture: Picture, clean: Picture) -> float:
    """Return the PSNR of a picture in dB. If the mean square error is below ROUNDING, it is raised to ROUNDING."""
    error = float(np.mean((picture.astype(np.float64) - clean) ** 2))
    return 10 * math.log10(255**2 / max(ROUNDING, error))


if __name__ == "__main__":
    main()
