"""What each encoder gives and costs: CPU milliseconds a megapixel, bytes and SSIMULACRA2, means over photos.

    python benchmarks/encoders.py PHOTO_OR_FOLDER… [--megapixels 2] [--rows 'avif {"quality": 60}' …]

Photos are scaled down to so many megapixels. Scores are the library's own, of the whole picture. Costs and bytes
are given beside those of plain Pillow's JPEG at quality 85 in the same run, since machines and their load differ;
`smaller` and `better` count the photos on which a row takes fewer bytes than `webp` with its defaults, and has
no lower score. Without arguments PIXTOOLS_TEST_DATA names the folder.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
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
avif {"speed": 6}
avif {"subsampling": "4:4:4"}
avif {"encoder": "svt"}
webp {"lossless": true}
png {}
png {"effort": "small"}
""".strip().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    options = parser.parse_args()
    pictures = [scaled(decode(path.read_bytes()), options.megapixels) for path in files(options.photos)]
    floor = [plain(picture) for picture in pictures]
    base = [measured("webp {}", picture) for picture in pictures]
    print(f"{len(pictures)} photos, {options.megapixels:g} megapixels at most; ms, kB: means, × plain JPEG at 85")
    print(f"{'':34} {'ms/MP':>15} {'kB':>15} {'score':>6} {'least':>6} smaller better")
    for row in options.rows:
        found = [measured(row, picture) for picture in pictures]
        size = mean(bytes_ for _, bytes_, _ in found) / 1000
        floor_size = mean(bytes_ for _, bytes_ in floor) / 1000
        cost, floor_cost = mean(ms for ms, *_ in found), mean(ms for ms, _ in floor)
        scores = [score for *_, score in found]
        smaller = sum(one[1] < other[1] for one, other in zip(found, base, strict=True))
        better = sum(one[2] >= other[2] for one, other in zip(found, base, strict=True))
        print(
            f"{row:34} {cost:7.1f} ×{cost / floor_cost:6.1f} {size:7.0f} ×{size / floor_size:6.2f} "
            f"{mean(scores):6.1f} {min(scores):6.1f} {smaller:4}/{len(found)} {better:3}/{len(found)}",
            flush=True,
        )


def files(given: list[Path]) -> list[Path]:
    """Return the files that were named, and those in the folders that were."""
    named = given or [Path(os.environ["PIXTOOLS_TEST_DATA"])]
    return [path for one in named for path in (sorted(one.rglob("*")) if one.is_dir() else [one]) if path.is_file()]


def scaled(picture: Picture, most: float) -> Picture:
    ratio = (most / megapixels(picture.size)) ** 0.5
    width, height = (max(1, round(side * ratio)) for side in picture.size)
    return put(picture, place(picture.size, width, height, "inside", upscale=False), None)


def plain(picture: Picture) -> tuple[float, int]:
    out = io.BytesIO()
    started = time.process_time()
    picture.image.convert("RGB").save(out, "JPEG", quality=85)
    return (time.process_time() - started) * 1000 / megapixels(picture.size), len(out.getvalue())


def measured(row: str, picture: Picture) -> tuple[float, int, float]:
    """Return CPU milliseconds a megapixel, bytes and score of the picture as an operation with parameters makes it."""
    name, params = row.split(" ", 1)
    operation = get(name)
    started = time.process_time()
    encoded = operation.encode(picture, operation.params(**json.loads(params)), 0)
    spent = (time.process_time() - started) * 1000 / megapixels(picture.size)
    return spent, len(encoded.data), whole_score(encoded.picture, encoded.data)


def whole_score(original: Picture, data: bytes) -> float:
    """Return what the library says of the whole picture; that of the same pixels is known."""
    if decode(data).image.tobytes() == original.image.tobytes():
        return 100.0
    return float(compute_ssimulacra2(*(raw(one) for one in (original, decode(data)))))


def raw(picture: Picture) -> io.BytesIO:
    out = io.BytesIO()
    picture.image.convert("RGB").save(out, "PPM")
    out.seek(0)
    return out


if __name__ == "__main__":
    main()
