"""What a photo costs that is wanted small: decoded whole, and as a JPEG can be, at a half, quarter or eighth.

Prints CPU milliseconds of decode and resize by both ways, and SSIMULACRA2 of the second against the first: how far
one could tell them apart.

    python benchmarks/resize.py PHOTOS          # a folder of JPEGs
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image

from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Picture, Size
from pixtools.imaging.score import Reference
from pixtools.operations.base.kinds import Resizing

WIDTHS = (1600, 800, 320)


def main() -> None:
    print(f"{'photo':36} {'MP':>4} {'width':>5} {'decoded':>8}  {'whole':>7} {'drafted':>7}  ratio  score")
    for path in sorted(Path(sys.argv[1]).glob("*.jpg")):
        data = path.read_bytes()
        for width in WIDTHS:
            resize = Resizing(width=width, height=width)
            whole, slow, full = timed(data, resize, None)
            small, quick, size = timed(data, resize, resize.placement(full).scaled)
            score = Reference(whole).score(small)
            print(
                f"{path.name[:36]:36} {full[0] * full[1] / 1e6:4.0f} {width:5} {full[0] / size[0]:7.0f}×"
                f"  {slow:7.0f} {quick:7.0f} {quick / slow:6.2f} {score:6.1f}",
                flush=True,
            )


def timed(data: bytes, resize: Resizing, enough: Size | None) -> tuple[Picture, float, Size]:
    """Return the resized picture, CPU milliseconds (the better of two), and the size that was decoded."""
    times = []
    for _ in range(2):
        started = time.process_time()
        picture = decode(data, enough)
        made = resize.apply(picture)
        times.append(time.process_time() - started)
    return made, min(times) * 1000, picture.size


if __name__ == "__main__":
    Image.preinit()
    main()
