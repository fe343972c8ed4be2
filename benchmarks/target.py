"""Whether `target` gets the score that was asked for: by the library, on the whole picture.

    python benchmarks/target.py PHOTO_OR_FOLDER… [--megapixels 2] [--codecs jpg webp avif] [--targets 60 75 85]

Each line: asked, reached by the sample that the search looks at, reached by the library on the whole picture,
encodes. Photos are scaled down to so many megapixels, 0 leaves them whole; the library takes two CPU seconds and
550 MB a megapixel. Without arguments PIXTOOLS_TEST_DATA names the folder. Ends with status 1 if a score is further
than 1.0 from what was asked, or took more than 6 encodes. A target that a codec does not reach on a photo at its
highest quality, and says so, is listed and counted by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from encoders import files, scaled, whole_score

from pixtools.imaging.decoding import decode
from pixtools.operations import get

MOST_OFF, MOST_ENCODES = 1.0, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--codecs", nargs="+", default=["jpg", "webp", "avif"])
    parser.add_argument("--targets", nargs="+", type=float, default=[60.0, 75.0, 85.0])
    options = parser.parse_args()
    worst, most, beyond, count = 0.0, 0, 0, 0
    print(f"{'photo':32} {'pixels':>11} {'codec':5} {'asked':>5} {'sample':>6} {'whole':>6} {'off':>5} quality encodes")
    for path in files(options.photos):
        picture = decode(path.read_bytes())
        picture = scaled(picture, options.megapixels) if options.megapixels else picture
        for codec in options.codecs:
            operation = get(codec)
            for target in options.targets:
                encoded = operation.encode(picture, operation.params(target=target), 0)
                facts, whole = encoded.facts, whole_score(encoded.picture, encoded.data)
                print(
                    f"{path.name[-32:]:32} {picture.size[0]:5}×{picture.size[1]:5} {codec:5} {target:5g} "
                    f"{facts['score']:6.1f} {whole:6.2f} {whole - target:+5.2f} {facts['quality']:7} "
                    f"{facts['encodes']:7}{'' if facts['reached'] else '  not reached'}",
                    flush=True,
                )
                count += 1
                most = max(most, facts["encodes"])
                beyond += not facts["reached"]
                worst = max(worst, abs(whole - target) if facts["reached"] else 0.0)
    print(f"{count} results: worst |off| {worst:.2f}, most encodes {most}, {beyond} targets beyond the codec")
    raise SystemExit(worst > MOST_OFF or most > MOST_ENCODES)


if __name__ == "__main__":
    main()
