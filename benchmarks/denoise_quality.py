"""How well the denoiser does on the test sets of the papers: PSNR in colour, and how far it is from the paper's.

    python benchmarks/denoise_quality.py CBSD68 KODAK24                            # folders of clean pictures
    python benchmarks/denoise_quality.py CBSD68 --weights GD_Color_Blind.mat       # beside weights that others publish
    python benchmarks/denoise_quality.py CBSD68 --clipped                          # noise as files of 8 bits have it
    python benchmarks/denoise_quality.py CBSD68 --jpeg 95                          # noise as JPEGs have it (4:2:0)

Each picture gets white Gaussian noise of its own seed, in float32 and not clipped, as in the papers; it goes through
the network whole, and the result, clipped to 0..1 but not rounded, is compared with the clean picture over all pixels
and channels. The mean over the pictures is in dB. `--clipped` rounds and clips the noisy picture to 8 bits first,
and so the result: there is less of the noise then, but what is left is no longer Gaussian; `--jpeg` saves that as a
JPEG with colours at half the size besides. Grey pictures have one noise, and the mean of three channels. "off" is
against CDnCNN-B on CBSD68, from the paper: shown for a folder of that name, for no other set has figures there, nor
clipped noise.
"""

from __future__ import annotations

import io
from pathlib import Path
from statistics import mean

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtools.denoising.dncnn import SHIPPED, Weights, load, shipped
from pixtools.denoising.engine import Engine

PAPER = {15: 33.89, 25: 31.23, 50: 27.92}
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
ENGINES = ("openvino", "openvino-bfloat16", "openvino-float32", "torch", "torch-float32", "cuda", "cuda-float32")

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("sets", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", "files", multiple=True, type=File, help="Files to run beside the shipped weights.")
@click.option("--sigma", "sigmas", multiple=True, type=float, default=(15, 25, 50), show_default=True)
@click.option("--engine", "name", type=click.Choice(ENGINES), default="openvino", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--clipped", is_flag=True, help="Noise rounded and clipped to 8 bits, as in files.")
@click.option("--jpeg", type=click.IntRange(1, 100), help="Clipped, and saved as a JPEG of this quality.")
@click.option("--first", type=int, help="So many pictures of each set, instead of all.")
def main(
    sets: tuple[Path, ...],
    files: tuple[Path, ...],
    sigmas: tuple[float, ...],
    name: str,
    threads: int,
    clipped: bool,  # noqa: FBT001 (as click gives it)
    jpeg: int | None,
    first: int | None,
) -> None:
    named = {SHIPPED: shipped()} | {path.name: load(path.read_bytes(), path.name) for path in files}
    engines = {title: engine_of(name, weights, threads) for title, weights in named.items()}
    print(next(iter(engines.values())).name)
    print(f"{'set':16} {'pictures':>8} {'sigma':>5}  {'weights':32} {'noisy':>6} {'PSNR':>6} {'paper':>6} {'off':>6}")
    for folder in sets:
        pictures = [read(path) for path in found(folder)[:first]]
        for sigma in sigmas:
            paper = PAPER.get(sigma) if "cbsd68" in folder.name.lower() and not (clipped or jpeg or first) else None
            tiles = [noisy(picture, sigma, seed, clipped=clipped, jpeg=jpeg) for seed, picture in enumerate(pictures)]
            before = mean(map(psnr, tiles, pictures))
            for title, engine in engines.items():
                score = mean(psnr(denoised(engine, tile), clean) for tile, clean in zip(tiles, pictures, strict=True))
                print(
                    f"{folder.name:16} {len(pictures):8} {sigma:5g}  {title:32} {before:6.2f} {score:6.2f}"
                    + (f" {paper:6.2f} {score - paper:+6.2f}" if paper else ""),
                    flush=True,
                )


def engine_of(name: str, weights: Weights, threads: int) -> Engine:
    library, _, precision = name.partition("-")
    if library == "openvino":
        from pixtools.denoising.openvino_engine import OpenVINOEngine  # noqa: PLC0415

        return OpenVINOEngine(weights, threads, precision or None)
    import torch  # noqa: PLC0415

    from pixtools.denoising.torch_engine import TorchEngine  # noqa: PLC0415

    torch.set_num_threads(threads)
    return TorchEngine(weights, "cuda" if library == "cuda" else "cpu", precision or "bfloat16")


def found(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise click.ClickException(f"There is no picture in {folder}: expected {', '.join(sorted(SUFFIXES))}")
    return paths


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)[..., None] if image.mode == "L" else np.asarray(image.convert("RGB"))


def noisy(
    clean: NDArray[np.uint8], sigma: float, seed: int, *, clipped: bool, jpeg: int | None = None
) -> NDArray[np.float32 | np.uint8]:
    noise = np.random.default_rng((seed, round(sigma * 10))).normal(0, sigma, clean.shape)
    if clipped or jpeg:
        levels = (clean + noise).round().clip(0, 255).astype(np.uint8)
        return saved(levels, jpeg) if jpeg else levels
    return ((clean + noise) / 255).astype(np.float32)


def denoised(engine: Engine, picture: NDArray[np.float32 | np.uint8]) -> NDArray[np.float32 | np.uint8]:
    channels = picture.shape[2]
    found = engine.denoise(np.repeat(picture[None], 3 // channels, axis=3), np.ones(1, np.float32))[0]
    return found if channels == 3 else found.mean(axis=2, keepdims=True).astype(found.dtype)  # noqa: PLR2004


def saved(levels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return what is left of a picture after it was saved as a JPEG, 4:2:0."""
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).reshape(levels.shape)


def psnr(picture: NDArray[np.float32 | np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the PSNR in dB of a picture, 0..255 in uint8 or 0..1 in float32: the latter counts as clipped."""
    levels = picture.astype(np.float64) if picture.dtype == np.uint8 else picture.clip(0, 1).astype(np.float64) * 255
    return float(10 * np.log10(255**2 / np.mean((levels - clean) ** 2)))


if __name__ == "__main__":
    main()
