"""Compares two ways to resize a JPEG: decode all pixels, or shrink on load to 1/2, 1/4 or 1/8.

Prints the CPU milliseconds that decoding and resizing take in both ways. Also prints the SSIMULACRA2 score of the
second result, compared with the first result.

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
from pixtools.operations.base.resizing import Resizing

WIDTHS = (1600, 800, 320)


def main() -> None:
    """Measure every photo of the folder at every width."""
    print(f"{'photo':36} {'MP':>4} {'width':>5} {'decoded':>8}  {'full':>7} {'shrunk':>7}  ratio  score")
    for path in sorted(Path(sys.argv[1]).glob("*.jpg")):
        data = path.read_bytes()
        for width in WIDTHS:
            resize = Resizing(width=width, height=width)
            from_full, full_ms, full = timed(data, resize, None)
            from_shrunk, shrunk_ms, shrunk = timed(data, resize, resize.placement(full).scaled)
            score = Reference(from_full).score(from_shrunk)
            print(
                f"{path.name[:36]:36} {full[0] * full[1] / 1e6:4.0f} {width:5} {full[0] / shrunk[0]:7.0f}×"
                f"  {full_ms:7.0f} {shrunk_ms:7.0f} {shrunk_ms / full_ms:6.2f} {score:6.1f}",
                flush=True,
            )


def timed(data: bytes, resize: Resizing, needed_size: Size | None) -> tuple[Picture, float, Size]:
    """Return the resized picture, the CPU milliseconds (the lower of two runs), and the size that was decoded."""
    times = []
    for _ in range(2):
        started = time.process_time()
        decoded = decode(data, needed_size)
        resized = resize.apply(decoded)
        times.append(time.process_time() - started)
    return resized, min(times) * 1000, decoded.size


if __name__ == "__main__":
    Image.preinit()
    main()
