"""Measures the peak memory of a denoiser replica, and its time, for large pictures.

    python benchmarks/denoise_memory.py                      # 24 megapixels
    python benchmarks/denoise_memory.py --megapixels 50 --pictures 2

Exits with status 1 if the peak exceeds --most. The class of the replica runs in a new process without Ray, on pictures
of pure noise. With --mixed, two other engines run first: a megapixel is denoised with the weights for white noise,
and a megapixel with `"effort": "fast"`. With --coarse, the noise is coarse, so the pictures need two passes.

The peak is the highest resident memory of this process (VmHWM). The peak includes the pictures, which are in shared
memory in the service.
"""

from __future__ import annotations

import subprocess
import sys
import time

import click

CHILD = """
import asyncio, sys
from pathlib import Path
import numpy as np
from dag.messages import Inferred
from pixtools.denoising.weights import WHITE_SHA256
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings
from serve.denoiser import DenoiserReplica

def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1000

async def main(width, height, count, mixed, coarse):
    settings = Settings(database_url="postgresql://none", redis_url="redis://none", denoise_device="cpu")
    denoiser = DenoiserReplica(settings)
    await denoiser.check_health()
    print("ready", peak_mb(), flush=True)
    random = np.random.default_rng(1)
    if coarse:
        small = random.integers(96, 160, (count, 1, -(-height // 2), -(-width // 2), 3), dtype=np.uint8)
        pictures = np.ascontiguousarray(small.repeat(2, axis=2).repeat(2, axis=3)[:, :, :height, :width])
        del small
    else:
        pictures = random.integers(0, 256, (count, 1, height, width, 3), dtype=np.uint8)

    async def denoise(pixels):
        async for message in denoiser.run((pixels, Picture(())), Denoise(), settings.weights_sha256):
            if isinstance(message, Inferred):
                assert message.frames.shape == pixels.shape
                assert message.result["passes"] == (2 if coarse else 1)

    if mixed:
        noise = random.integers(0, 256, (1, 1024, 1024, 3), dtype=np.uint8)
        async for _ in denoiser.run((noise, Picture(())), Denoise(noise="white"), WHITE_SHA256):
            pass
        async for _ in denoiser.run((noise, Picture(())), Denoise(effort="fast"), settings.weights_sha256):
            pass
    await asyncio.gather(*map(denoise, pictures))
    print("done", peak_mb(), flush=True)

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--megapixels", default=24.0, show_default=True)
@click.option("--pictures", default=1, show_default=True, help="Number of pictures that are denoised at the same time.")
@click.option("--most", "max_mb", default=2000, show_default=True, help="Allowed peak, in MB.")
@click.option("--mixed", is_flag=True, help="Run two other engines first.")
@click.option("--coarse", is_flag=True, help="Give the pictures coarse noise.")
def main(megapixels: float, pictures: int, max_mb: int, mixed: bool, coarse: bool) -> None:  # noqa: FBT001 (click)
    """Run the replica in a child process, and print its memory and time."""
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    size = (round(megapixels * 1e6 / height), height)
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, (*size, pictures, int(mixed), int(coarse)))],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        sys.exit(child.stderr)
    (_, idle), (_, peak) = (line.split() for line in child.stdout.splitlines())
    seconds = time.monotonic() - began
    print(f"{pictures} × {megapixels:g} megapixels, {size[0]} × {size[1]}: {seconds:.0f} s in total")
    print(f"{idle} MB when ready, {peak} MB at the peak")
    sys.exit(int(peak) > max_mb)


if __name__ == "__main__":
    main()
