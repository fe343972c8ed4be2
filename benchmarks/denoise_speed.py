"""Measures how fast the denoiser is, compared with plain PyTorch and with the limit of the machine.

    python benchmarks/denoise_speed.py PHOTO --threads 2
    python benchmarks/denoise_speed.py PHOTO --device cuda --megapixels 12

The photo gets noise of sigma 25, in 8 bits. These contestants take turns, each in its own process:

    PixTools     all of the denoising: the tiles with halos, the network, the joining of the tiles
    fast         the same, with `"effort": "fast"`
    engine       only the engine, on one batch of the largest tiles: the network, the blending and the measurement
    eager        PyTorch as most people write it: float32, contiguous, `torch.no_grad()`, the whole picture
    channels     PyTorch in bfloat16, channels last, inference mode, the whole picture
    GEMM         `torch.mm` of large bfloat16 matrices: the limit of the machine

All contestants except GEMM start and end with uint8 arrays in the memory of the CPU. The table shows the median of the
rounds and the best round. The network takes 1,334 GFLOP for each megapixel. The PSNR is in dB, compared with the photo.
The values of contestants that denoise the whole picture should agree within 0.02 dB, and "fast" within 0.1 dB.
"peak MB" is the highest resident memory of the process, with its libraries.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import click
import numpy as np
from denoise_quality import File, noisy, psnr
from numpy.typing import NDArray
from PIL import Image

from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import Blend, Effort, load_engine
from pixtools.denoising.restoration import MAX_TILE_SIDE, denoise

Pixels = NDArray[np.uint8]  # (H, W, 3)

GFLOP_PER_MEGAPIXEL = 1334
SIGMA = 25


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("photo", type=File)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--megapixels", default=2.0, show_default=True, help="Scale the photo down to this size; 0: keep it.")
def main(photo: Path, device: str, threads: int, rounds: int, megapixels: float) -> None:
    """Run all contestants in turn, and print their table."""
    clean = read(photo, megapixels)
    picture = noisy(clean, SIGMA, 0, clipped=True)
    spawn = multiprocessing.get_context("spawn")
    pools = {
        name: ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(name, device, threads, picture))
        for name in CONTESTANTS
    }
    titles = {name: pool.submit(describe).result() for name, pool in pools.items()}  # this is also the warm-up run
    times: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(rounds):
        for name, pool in pools.items():
            times[name].append(pool.submit(run).result())
    rates = {name: [titles[name][1] / seconds for seconds in taken] for name, taken in times.items()}
    show(rates, titles, {name: pool.submit(outcome).result() for name, pool in pools.items()}, clean)
    for pool in pools.values():
        pool.shutdown()


def show(
    rates: dict[str, list[float]],
    titles: dict[str, tuple[str, float]],
    outcomes: dict[str, tuple[Pixels | None, float]],
    clean: Pixels,
) -> None:
    """Print the table. Each dict has the names of the contestants as keys. `rates` are the GFLOP/s of each round."""
    gemm, eager = median(rates["GEMM"]), median(rates["eager"])
    print(f"{clean.shape[1]} × {clean.shape[0]}, {len(rates['GEMM'])} rounds in turn; {titles['PixTools'][0]}")
    print(f"{'':9} {'MP/s':>8} {'best':>8} {'GFLOP/s':>9} {'of GEMM':>7} {'× eager':>7} {'PSNR':>7} {'peak MB':>7}")
    for name, measured in rates.items():
        rate, (result, peak_mb) = median(measured), outcomes[name]
        score = f"{psnr(result, clean):7.3f}" if result is not None else " " * 7
        print(
            f"{name:9} {rate / GFLOP_PER_MEGAPIXEL:8.3f} {max(measured) / GFLOP_PER_MEGAPIXEL:8.3f} {rate:9,.0f}"
            f" {rate / gemm:7.2f} {rate / eager:7.2f} {score} {peak_mb:7,.0f}"
        )


def read(path: Path, megapixels: float) -> Pixels:
    """Read a photo, and scale it down to at most `megapixels`. With 0, the photo is not scaled."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    ratio = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    if megapixels and ratio < 1:
        image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
    return np.asarray(image)


# The code below runs in the contestants' processes. Each process has one contestant and its last result.
Call = Callable[[], Pixels | None]
contestant: tuple[str, float, Call]  # the title, the GFLOP of one call, and the function to call
result: Pixels | None = None


def prepare(name: str, device: str, threads: int, picture: Pixels) -> None:
    """Create the contestant of this process."""
    global contestant  # noqa: PLW0603
    contestant = CONTESTANTS[name](device, threads, picture)


def describe() -> tuple[str, float]:
    """Run the contestant once, and return its title and the GFLOP of a call."""
    run()
    return contestant[:2]


def run() -> float:
    """Run the contestant, and return the seconds that it took."""
    global result  # noqa: PLW0603
    started = time.perf_counter()
    result = contestant[2]()
    return time.perf_counter() - started


def outcome() -> tuple[Pixels | None, float]:
    """Return the denoised picture, and the highest resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return result, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3


def gflop(shape: tuple[int, ...]) -> float:
    """Return the GFLOP of the network for pictures (…, H, W, 3)."""
    return float(np.prod(shape)) / 3 / 1e6 * GFLOP_PER_MEGAPIXEL


def pixtools(device: str, threads: int, picture: Pixels, effort: Effort = "normal") -> tuple[str, float, Call]:
    """Return the contestant PixTools, or the contestant fast if `effort` is `fast`."""
    engine = load_engine(load_shipped(), device, threads, effort)
    batch = max(1, engine.batch_pixels // MAX_TILE_SIDE**2)
    return engine.name, gflop(picture.shape), lambda: denoise(engine, picture[None], noise="any", batch=batch)[0][0]


def engine_alone(device: str, threads: int, picture: Pixels) -> tuple[str, float, Call]:
    """Return the contestant engine."""
    engine = load_engine(load_shipped(), device, threads)
    count = max(1, engine.batch_pixels // MAX_TILE_SIDE**2)
    tiles = np.resize(picture, (count, MAX_TILE_SIDE, MAX_TILE_SIDE, 3))
    blends = np.array([Blend().as_row()] * count, np.float32)

    def call() -> None:
        engine.denoise(tiles, blends)

    return engine.name, gflop(tiles.shape), call


def eager(device: str, threads: int, picture: Pixels) -> tuple[str, float, Call]:
    """Return the contestant eager."""
    import torch  # noqa: PLC0415

    network = network_of(threads).to(device)

    def call() -> Pixels:
        with torch.no_grad():
            noisy = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float().contiguous().to(device) / 255
            clean = (noisy - network(noisy)).clamp(0, 1)
            return (clean[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()

    return "eager", gflop(picture.shape), call


def channels(device: str, threads: int, picture: Pixels) -> tuple[str, float, Call]:
    """Return the contestant channels."""
    import torch  # noqa: PLC0415

    network = network_of(threads).to(device, torch.bfloat16).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def call() -> Pixels:
        noisy = torch.from_numpy(picture.copy()).to(device)[None].permute(0, 3, 1, 2).float() / 255
        clean = (noisy - network(noisy.bfloat16()).float()).clamp(0, 1)
        return (clean[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()

    return "channels last", gflop(picture.shape), call


def gemm(device: str, threads: int, _: Pixels) -> tuple[str, float, Call]:
    """Return the contestant GEMM."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    side, times = (8192, 10) if device == "cuda" else (2048, 4)
    left, right = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)

    def call() -> None:
        for _ in range(times):
            product = left @ right
        product[0, 0].item()  # wait for the GPU, so that the time includes its work

    return "GEMM", times * 2 * side**3 / 1e9, call


def network_of(threads: int):  # noqa: ANN201 (a network of PyTorch, which only some of the processes import)
    """Return DnCNN in PyTorch, with the shipped weights."""
    import torch  # noqa: PLC0415

    from pixtools.denoising.torch_network import DnCNN  # noqa: PLC0415

    torch.set_num_threads(threads)
    network = DnCNN()
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in load_shipped().arrays.items()})
    return network.eval()


CONTESTANTS = {
    "PixTools": pixtools,
    "fast": partial(pixtools, effort="fast"),
    "engine": engine_alone,
    "eager": eager,
    "channels": channels,
    "GEMM": gemm,
}


if __name__ == "__main__":
    main()
