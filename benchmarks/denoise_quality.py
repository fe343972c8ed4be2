"""Measures the denoiser on the test sets of papers, on pairs of noisy and clean photos, and on clean photos.

    python benchmarks/denoise_quality.py CBSD68 KODAK24                            # folders of clean pictures
    python benchmarks/denoise_quality.py CBSD68 --weights GD_Color_Blind.mat       # compare with other weights
    python benchmarks/denoise_quality.py CBSD68 --clipped                          # noisy pictures in 8 bits
    python benchmarks/denoise_quality.py CBSD68 --jpeg 95                          # noisy pictures as JPEGs (4:2:0)
    python benchmarks/denoise_quality.py PAIRS --pairs                             # real noise, and clean photos
    python benchmarks/denoise_quality.py PHOTOS --clean --scale 0.25               # photos that should stay as they are

As in the papers, each picture gets white Gaussian noise from a separate seed, in float32 and not clipped. The network
takes the picture in one piece. The result is clipped to 0..1 but not rounded, and is compared with the clean picture
over all pixels and channels. The table shows the mean over the pictures in dB, for the shipped weights for photos and
for the shipped weights for white noise. A grey picture has the same noise in all three channels, and its result is the
mean of the three channels.

--clipped rounds and clips the noisy picture to 8 bits before denoising, and the result afterwards. The noise is then
weaker and no longer Gaussian. --jpeg does the same, and saves the noisy picture as a JPEG whose colours have half the
resolution.

"paper" is the PSNR of CDnCNN-B in the paper, and "diff" is the difference from "paper". Both are shown only for a
folder whose name contains CBSD68, and for the sigmas 15, 25 and 50. With --clipped, --jpeg or --first, they are not
shown, because the paper has no such figures.

With --pairs, the folders hold pairs of noisy and clean photos. pixtools/training/pairs.py describes their names. The
noisy photos are denoised as in the service: with 8 bits, in tiles, at full strength. The table has the PSNR, the SSIM
of the luma (Wang et al., 2004) and the SSIMULACRA2 score, each before and after. "gain" is the smallest rise of the
PSNR of a photo. "found" is the number of photos in which `"noise": "auto"` finds noise.

With --clean, the folders hold photos without visible noise. They are denoised in the same way. The PSNR compares each
photo with its result. "clean" is the number of photos in which `"noise": "auto"` finds no noise. With --scale, the
photos are first scaled down, because a smaller photo has less noise.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

from pixtools.denoising.dncnn import Weights, load_shipped, load_white, parse
from pixtools.denoising.engine import Blend, Engine
from pixtools.denoising.restoration import denoise
from pixtools.denoising.weights import SHIPPED, WHITE
from pixtools.training.pairs import find, find_pairs
from pixtools.training.photo_file import read_photo

PAPER = {15: 33.89, 25: 31.23, 50: 27.92}  # sigma: PSNR of CDnCNN-B on CBSD68
ENGINES = (
    "openvino", "openvino-int8", "openvino-bfloat16", "openvino-float32",
    "torch", "torch-float32", "cuda", "cuda-float32",
)  # fmt: skip

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("sets", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", "files", multiple=True, type=File, help="Weights to compare with the shipped weights.")
@click.option("--sigma", "sigmas", multiple=True, type=float, default=(15, 25, 50), show_default=True)
@click.option("--engine", "name", type=click.Choice(ENGINES), default="openvino", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--clipped", is_flag=True, help="Round and clip the noisy picture to 8 bits.")
@click.option("--jpeg", type=click.IntRange(1, 100), help="Also save the noisy picture as a JPEG of this quality.")
@click.option("--pairs", "in_pairs", is_flag=True, help="The folders hold pairs of noisy and clean photos.")
@click.option("--clean", "are_clean", is_flag=True, help="The folders hold photos without visible noise.")
@click.option("--scale", default=1.0, show_default=True, help="With --clean: scale the sides of the photos first.")
@click.option("--first", type=int, help="Take only this many pictures of each set.")
def main(
    sets: tuple[Path, ...],
    files: tuple[Path, ...],
    sigmas: tuple[float, ...],
    name: str,
    threads: int,
    clipped: bool,  # noqa: FBT001 (click passes options as arguments)
    jpeg: int | None,
    in_pairs: bool,  # noqa: FBT001
    are_clean: bool,  # noqa: FBT001
    scale: float,
    first: int | None,
) -> None:
    """Print one line for each combination of set, sigma and weights."""
    weights = {SHIPPED: load_shipped()}
    if not (in_pairs or are_clean):
        weights[WHITE] = load_white()
    weights |= {path.name: parse(path.read_bytes(), path.name) for path in files}
    engines = {title: engine_of(name, loaded, threads) for title, loaded in weights.items()}
    print(next(iter(engines.values())).name)
    if in_pairs and are_clean:
        raise click.UsageError("give --pairs or --clean, not both")
    if in_pairs:
        print_pairs(sets, engines, first)
        return
    if are_clean:
        print_clean(sets, engines, scale, first)
        return
    print(f"{'set':16} {'pictures':>8} {'sigma':>5}  {'weights':32} {'noisy':>6} {'PSNR':>6} {'paper':>6} {'diff':>6}")
    for folder in sets:
        pictures = [read_as_stored(path) for path in find(folder)[:first]]
        has_paper = "cbsd68" in folder.name.lower() and not (clipped or jpeg or first)
        for sigma in sigmas:
            paper = PAPER.get(sigma) if has_paper else None
            noisy_pictures = [
                noisy(picture, sigma, seed, clipped=clipped, jpeg=jpeg) for seed, picture in enumerate(pictures)
            ]
            for title, before, after in scores(engines, noisy_pictures, pictures):
                line = f"{folder.name:16} {len(pictures):8} {sigma:5g}  {title:32} {before:6.2f} {after:6.2f}"
                print(line + (f" {paper:6.2f} {after - paper:+6.2f}" if paper else ""), flush=True)


def print_pairs(sets: Sequence[Path], engines: Mapping[str, Engine], first: int | None) -> None:
    """Print one line for each combination of set and weights."""
    measures, forms = (psnr, ssim, ssimulacra2), ("5.2f", "6.4f", "5.1f")
    print(f"{'set':16} {'pairs':>5}  {'weights':32} {'PSNR':>13} {'SSIM':>15} {'SSIMULACRA2':>13}   gain found")
    for folder in sets:
        pairs = [(read_photo(noisy), read_photo(clean)) for noisy, clean in find_pairs(folder)[:first]]
        before = [[measure(*pair) for measure in measures] for pair in pairs]
        for title, engine in engines.items():
            results = [denoised_and_is_clean(engine, noisy_picture) for noisy_picture, _ in pairs]
            after = [
                [measure(result, clean) for measure in measures]
                for (result, _), (_, clean) in zip(results, pairs, strict=True)
            ]
            columns = [
                f"{mean(early):{form}} → {mean(late):{form}}"
                for early, late, form in zip(zip(*before, strict=True), zip(*after, strict=True), forms, strict=True)
            ]
            worst = min(late[0] - early[0] for early, late in zip(before, after, strict=True))
            recognised = sum(not is_clean for _, is_clean in results)
            print(f"{folder.name:16} {len(pairs):5}  {title:32} {' '.join(columns)} {worst:+6.2f} {recognised:5}")


def print_clean(sets: Sequence[Path], engines: Mapping[str, Engine], scale: float, first: int | None) -> None:
    """Print one line for each combination of set and weights."""
    print(f"{'set':16} {'pictures':>8}  {'weights':32} {'median':>6} {'worst':>6} {'clean':>5}")
    for folder in sets:
        pictures = [read_photo(path, scale) for path in find(folder)[:first]]
        for title, engine in engines.items():
            results = [denoised_and_is_clean(engine, picture) for picture in pictures]
            kept = [psnr(result, picture) for (result, _), picture in zip(results, pictures, strict=True)]
            recognised = sum(is_clean for _, is_clean in results)
            print(f"{folder.name:16} {len(pictures):8}  {title:32} {median(kept):6.2f} {min(kept):6.2f} {recognised:5}")


def denoised_and_is_clean(engine: Engine, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Denoise a picture (H, W, C) at full strength. Return the result, and whether `"noise": "auto"` finds no noise."""
    (result,), report = denoise(engine, picture[None], noise="auto")
    if report.skipped:  # otherwise `auto` has denoised the picture already
        (result,), _ = denoise(engine, picture[None])
    return result, report.skipped == "clean"


def ssim(picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the SSIM of the luma of two pictures (H, W, C)."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 (only --pairs needs it)

    one, other = (np.asarray(Image.fromarray(each.squeeze()).convert("L")) for each in (picture, clean))
    similarity: float = structural_similarity(one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return similarity


def ssimulacra2(picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the SSIMULACRA2 score of a picture (H, W, 1 or 3)."""
    files = [io.BytesIO(), io.BytesIO()]
    for file, each in zip(files, (clean, picture), strict=True):
        Image.fromarray(each.squeeze()).convert("RGB").save(file, "PPM")
    return float(compute_ssimulacra2(*files))


def scores(
    engines: dict[str, Engine],
    noisy_pictures: Sequence[NDArray[np.float32 | np.uint8]],
    clean_pictures: Sequence[NDArray[np.uint8]],
) -> Iterator[tuple[str, float, float]]:
    """Yield the title of each engine, and the mean PSNR in dB before and after denoising."""
    before = mean(map(psnr, noisy_pictures, clean_pictures))
    for title, engine in engines.items():
        after = (
            psnr(denoised(engine, picture), clean)
            for picture, clean in zip(noisy_pictures, clean_pictures, strict=True)
        )
        yield title, before, mean(after)


def engine_of(name: str, weights: Weights, threads: int) -> Engine:
    """Return the engine that has the name `name` in ENGINES."""
    library, _, precision = name.partition("-")
    if library == "openvino":
        from pixtools.denoising.openvino_engine import OpenVINOEngine  # noqa: PLC0415

        return OpenVINOEngine(weights, threads, precision or None)
    import torch  # noqa: PLC0415

    from pixtools.denoising.torch_engine import TorchEngine  # noqa: PLC0415

    torch.set_num_threads(threads)
    return TorchEngine(weights, "cuda" if library == "cuda" else "cpu", precision or "bfloat16")


def read_as_stored(path: Path) -> NDArray[np.uint8]:
    """Read a picture of a test set: (H, W, 1) if it is grey, else (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image)[..., None] if image.mode == "L" else np.asarray(image.convert("RGB"))


def noisy(
    clean: NDArray[np.uint8], sigma: float, seed: int, *, clipped: bool, jpeg: int | None = None
) -> NDArray[np.float32 | np.uint8]:
    """Add noise to a picture (H, W, 1 or 3), and return the noisy picture in the same shape.

    The result is float32, where 0..1 is black to white, and is not clipped. If `clipped` or `jpeg` (a quality) is set,
    the result is uint8.
    """
    noise = np.random.default_rng((seed, round(sigma * 10))).normal(0, sigma, clean.shape)
    if clipped or jpeg:
        levels = (clean + noise).round().clip(0, 255).astype(np.uint8)
        return saved(levels, jpeg) if jpeg else levels
    return ((clean + noise) / 255).astype(np.float32)


def denoised(engine: Engine, picture: NDArray[np.float32 | np.uint8]) -> NDArray[np.float32 | np.uint8]:
    """Denoise a picture (H, W, 1 or 3) in one piece, at full strength. The result has the same shape and type."""
    channels = picture.shape[2]
    tiles = np.repeat(picture[None], 3 // channels, axis=3)
    result = engine.denoise(tiles, np.array([Blend().as_row()], np.float32)).tiles[0]
    return result if channels == 3 else result.mean(axis=2, keepdims=True).astype(result.dtype)  # noqa: PLR2004


def saved(levels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Save a picture (H, W, 1 or 3) as a JPEG (4:2:0), read the JPEG, and return its pixels in the same shape."""
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).reshape(levels.shape)


def psnr(picture: NDArray[np.float32 | np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the PSNR of a picture in dB. `picture` and `clean` have the same shape (H, W, C).

    `picture` is uint8, or float32, which is first clipped to 0..1.
    """
    levels = picture.astype(np.float64) if picture.dtype == np.uint8 else picture.clip(0, 1).astype(np.float64) * 255
    return float(10 * np.log10(255**2 / np.mean((levels - clean) ** 2)))


if __name__ == "__main__":
    main()
