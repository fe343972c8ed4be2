"""Measures each encoder: CPU milliseconds per megapixel, bytes and SSIMULACRA2, as means over photos.

    python benchmarks/encoders.py PHOTO_OR_FOLDER… [--megapixels 2] [--rows 'avif {"quality": 60}' …]

Photos are scaled down to `--megapixels`. The ssimulacra2 library computes the scores of whole pictures. Machines and
their load differ, so time and bytes are also given relative to Pillow's JPEG at quality 85 in the same run. `smaller`
counts the photos with fewer bytes than the default `webp`. `better` counts the photos with at least the score of the
default `webp`. Without paths, the environment variable PIXTOOLS_TEST_DATA must give the folder of the photos.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ssimulacra2 import compute_ssimulacra2

from pixtools.imaging.decoding import decode
from pixtools.imaging.geometry import place, put
from pixtools.imaging.picture import Picture, megapixels
from pixtools.operations import get

ROWS = """
jpg {}
jpg {"progressive": true}
jpg {"subsampling": "4:4:4"}
webp {}
webp {"effort": 2}
webp {"effort": 6}
avif {}
avif {"speed": 8}
avif {"speed": 6}
avif {"subsampling": "4:4:4"}
webp {"lossless": true}
png {}
png {"effort": "small"}
""".strip().splitlines()


def main() -> None:
    """Measure every row on every photo, and print one line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    options = parser.parse_args()
    pictures = [scaled(decode(path.read_bytes()), options.megapixels) for path in files(options.photos)]
    jpeg = [pillow_jpeg(picture) for picture in pictures]
    jpeg_ms, jpeg_bytes = mean(ms for ms, _ in jpeg), mean(size for _, size in jpeg)
    webp = [measured("webp {}", picture) for picture in pictures]
    print(f"{len(pictures)} photos of up to {options.megapixels:g} megapixels; means, and × the means of Pillow's JPEG")
    print(f"{'':34} {'ms/MP':>15} {'kB':>15} {'score':>6} {'lowest':>6} smaller better")
    for row in options.rows:
        found = [measured(row, picture) for picture in pictures]
        ms, size = mean(one.ms for one in found), mean(one.bytes for one in found)
        scores = [one.score for one in found]
        smaller = sum(one.bytes < other.bytes for one, other in zip(found, webp, strict=True))
        better = sum(one.score >= other.score for one, other in zip(found, webp, strict=True))
        print(
            f"{row:34} {ms:7.1f} ×{ms / jpeg_ms:6.1f} {size / 1000:7.0f} ×{size / jpeg_bytes:6.2f} "
            f"{mean(scores):6.1f} {min(scores):6.1f} {smaller:4}/{len(found)} {better:3}/{len(found)}",
            flush=True,
        )


@dataclass(frozen=True)
class Measured:
    """The result of one encode: CPU milliseconds per megapixel, the bytes of the file, and the score of the file."""

    ms: float
    bytes: int
    score: float


def files(paths: list[Path]) -> list[Path]:
    """Return the given files and the files in the given folders."""
    named = paths or [Path(os.environ["PIXTOOLS_TEST_DATA"])]
    return [path for one in named for path in (sorted(one.rglob("*")) if one.is_dir() else [one]) if path.is_file()]


def scaled(picture: Picture, most: float) -> Picture:
    """Return the picture scaled down to at most `most` megapixels."""
    ratio = (most / megapixels(picture.size)) ** 0.5
    width, height = (max(1, round(side * ratio)) for side in picture.size)
    return put(picture, place(picture.size, width, height, "inside", upscale=False), None)


def pillow_jpeg(picture: Picture) -> tuple[float, int]:
    """Return the CPU milliseconds per megapixel and the bytes of a JPEG that Pillow encodes with quality 85."""
    out = io.BytesIO()
    started = time.process_time()
    picture.image.convert("RGB").save(out, "JPEG", quality=85)
    return (time.process_time() - started) * 1000 / megapixels(picture.size), len(out.getvalue())


def measured(row: str, picture: Picture) -> Measured:
    """Encode a picture as `row` says. A row contains the name of an operation and the parameters in JSON."""
    name, params = row.split(" ", 1)
    operation = get(name)
    started = time.process_time()
    encoded = operation.encode(picture, operation.params(**json.loads(params)), 0)
    ms = (time.process_time() - started) * 1000 / megapixels(picture.size)
    return Measured(ms, len(encoded.data), whole_score(encoded.picture, encoded.data))


def whole_score(original: Picture, data: bytes) -> float:
    """Return the library's score of the whole picture in the file `data`. Identical pixels get 100 without it."""
    if decode(data).image.tobytes() == original.image.tobytes():
        return 100.0
    return float(compute_ssimulacra2(*(as_ppm(one) for one in (original, decode(data)))))


def as_ppm(picture: Picture) -> io.BytesIO:
    """Return the first frame as a PPM file, which the library reads."""
    out = io.BytesIO()
    picture.image.convert("RGB").save(out, "PPM")
    out.seek(0)
    return out


if __name__ == "__main__":
    main()
