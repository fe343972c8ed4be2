"""What a replica of the denoiser takes at its peak, and how long a large picture takes; exits with 1 beyond --most.

    python benchmarks/denoise_memory.py                      # 24 megapixels
    python benchmarks/denoise_memory.py --megapixels 50 --pictures 2

The replica's own class runs in a fresh process, as Ray runs it but without Ray, on pictures full of noise. The peak is
the kernel's high-water mark of the process, the pictures included, which in the service lie in shared memory.
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
from dag.segments import Inferred
from pixtools.imaging.picture import Picture
from pixtools.operations.denoise import Denoise
from pixtools.settings import Settings
from serve.denoiser import Denoiser

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1000

async def main(width, height, pictures):
    settings = Settings(database_url="postgresql://none", redis_url="redis://none", denoise_device="cpu")
    denoiser = Denoiser(settings)
    await denoiser.check_health()
    print("ready", peak(), flush=True)
    made = np.random.default_rng(1).integers(0, 256, (pictures, 1, height, width, 3), dtype=np.uint8)

    async def one(pixels):
        async for word in denoiser.run((pixels, Picture(())), Denoise(), settings.weights_sha256):
            if isinstance(word, Inferred):
                assert word.frames.shape == pixels.shape

    await asyncio.gather(*map(one, made))
    print("done", peak(), flush=True)

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--megapixels", default=24.0, show_default=True)
@click.option("--pictures", default=1, show_default=True, help="So many at once.")
@click.option("--most", default=2000, show_default=True, help="MB that the peak may be.")
def main(megapixels: float, pictures: int, most: int) -> None:
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    size = (round(megapixels * 1e6 / height), height)
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, (*size, pictures))], capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        sys.exit(child.stderr)
    (_, idle), (_, peak) = (line.split() for line in child.stdout.splitlines())
    taken = time.monotonic() - began
    print(f"{pictures} × {megapixels:g} megapixels, {size[0]} × {size[1]}: {taken:.0f} s in all")
    print(f"{idle} MB when ready, {peak} MB at the peak")
    sys.exit(int(peak) > most)


if __name__ == "__main__":
    main()
