"""Checks that files with a `target` reach this score. The ssimulacra2 library scores the whole picture.

    python benchmarks/target.py PHOTO_OR_FOLDER… [--megapixels 2] [--codecs jpg webp avif] [--targets 60 75 85]

Each line shows the target, the score of the sample that the search measures, the library's score of the whole picture,
and the number of encodes. Photos are scaled down to `--megapixels`; 0 keeps their size. The library takes two CPU
seconds and 550 MB per megapixel. Without paths, the environment variable PIXTOOLS_TEST_DATA must give the folder of the
photos.

Exits with status 1 if a score is more than 1.0 away from its target, or if a search took more than 6 encodes. A target
that a codec cannot reach even at its highest quality is counted separately.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from encoders import files, scaled, whole_score

from pixtools.imaging.decoding import decode
from pixtools.operations import get

MAX_ERROR, MAX_ENCODES = 1.0, 6


def main() -> None:
    """Measure every photo with every codec and target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--codecs", nargs="+", default=["jpg", "webp", "avif"])
    parser.add_argument("--targets", nargs="+", type=float, default=[60.0, 75.0, 85.0])
    options = parser.parse_args()
    worst, most_encodes, not_reached, count = 0.0, 0, 0, 0
    print(
        f"{'photo':32} {'pixels':>11} {'codec':5} {'target':>6} {'sample':>6} {'whole':>6} {'error':>5} quality encodes"
    )
    for path in files(options.photos):
        picture = decode(path.read_bytes())
        picture = scaled(picture, options.megapixels) if options.megapixels else picture
        for codec, target in itertools.product(options.codecs, options.targets):
            operation = get(codec)
            encoded = operation.encode(picture, operation.params(target=target), 0)
            result, whole = encoded.result, whole_score(encoded.picture, encoded.data)
            print(
                f"{path.name[-32:]:32} {picture.size[0]:5}×{picture.size[1]:5} {codec:5} {target:6g} "
                f"{result['score']:6.1f} {whole:6.2f} {whole - target:+5.2f} {result['quality']:7} "
                f"{result['encodes']:7}{'' if result['reached'] else '  not reached'}",
                flush=True,
            )
            count += 1
            most_encodes = max(most_encodes, result["encodes"])
            not_reached += not result["reached"]
            worst = max(worst, abs(whole - target) if result["reached"] else 0.0)
    print(f"{count} results: largest error {worst:.2f}, most encodes {most_encodes}, {not_reached} targets not reached")
    raise SystemExit(worst > MAX_ERROR or most_encodes > MAX_ENCODES)


if __name__ == "__main__":
    main()
