"""A fuzz target for each decoder: damaged files, and what the ingress and a converter make of them.

PIXTOOLS_FUZZ_SECONDS is the time for each decoder, PIXTOOLS_FUZZ_SEED makes other cases. A file that did harm is left
in build/fuzz, with what it did beside it.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from bench import ENCODERS, MEMORY_BYTES, Bench, Fate, convert, look
from images import photo, saved
from mutations import mutated
from PIL import Image
from specimens import SPECIMENS, tiff, wide_numbers

from pixtools.errors import CorruptImage
from pixtools.imaging.formats import MEDIA_TYPES

SECONDS = float(os.environ.get("PIXTOOLS_FUZZ_SECONDS", "2"))
SEED = os.environ.get("PIXTOOLS_FUZZ_SEED", "1")
LEFT = Path(__file__).parents[2] / "build" / "fuzz"
DEADLINE_S = 20  # for files of some kilobytes, on a machine that others use
MOST_BYTES = 30_000  # of a file to start from: injuries are to hit what decides

HARM_TO_THE_INGRESS = {Fate.CRASHED, Fate.HUNG, Fate.OUT_OF_MEMORY, Fate.WRONG}


def small_files() -> Iterator[tuple[str, bytes]]:
    """Yield variants that the specimens do not have, or have only in large."""
    small = Image.fromarray(photo(40, 24))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield "TIFF", saved(small, "TIFF", compression=compression)
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "I;16", "F", "LAB"):
        yield "TIFF", saved(small.convert("L").convert(mode) if mode in ("I;16", "F") else small.convert(mode), "TIFF")
    yield "TIFF", saved(small.convert("1"), "TIFF", compression="group4")
    yield "TIFF", saved(small, "TIFF", save_all=True, append_images=[small, small])
    yield "TIFF", tiff(photo(40, 24), tile=16)
    yield "TIFF", tiff(wide_numbers(photo(40, 24)))
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield "BMP", saved(small.convert(mode), "BMP")
    yield "GIF", saved(small.quantize(4), "GIF", interlace=1)
    yield "PNG", saved(small.quantize(4), "PNG", bits=2)


def seeds(kind: str) -> list[bytes]:
    """Return valid files of a kind to start from."""
    named = "heic" if kind == "HEIF" else kind.lower()
    found = [make().data for name, make in SPECIMENS.items() if name.split()[0] == named]
    found += [data for name, data in small_files() if name == kind]
    return [data for data in found if len(data) <= MOST_BYTES]


def leave(kind: str, number: int, data: bytes, what: str) -> Path:
    LEFT.mkdir(parents=True, exist_ok=True)
    path = LEFT / f"{kind.lower()}-{SEED}-{number}"
    path.write_bytes(data)
    path.with_name(path.name + ".txt").write_text(what + "\n")
    return path


@pytest.fixture(scope="module")
def ingress():
    with closing(Bench(look, DEADLINE_S)) as bench:
        yield bench


@pytest.fixture(scope="module")
def converter():
    with closing(Bench(convert, DEADLINE_S)) as bench:
        yield bench


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_a_damaged_file_harms_no_ingress_and_a_converter_gets_over_it(kind, ingress, converter):
    starts, ends = seeds(kind), time.monotonic() + SECONDS
    fates, harm, number = Counter(), [], 0
    for number in itertools.count():
        if time.monotonic() > ends:
            break
        data = mutated(kind, starts, Random(f"{kind} {SEED} {number}"))
        encoder = ENCODERS[number % len(ENCODERS)]
        fate, detail = ingress.give(data, encoder)
        if fate in HARM_TO_THE_INGRESS:
            harm.append((fate, leave(kind, number, data, f"ingress: {fate}: {detail}"), detail))
            continue
        if fate == Fate.PICTURE:
            fate, detail = converter.give(data, encoder)
        fates[fate] += 1
        if fate == Fate.WRONG:
            harm.append((fate, leave(kind, number, data, f"{encoder}: {detail}"), detail))
        elif fate in (Fate.CRASHED, Fate.HUNG):
            leave(kind, number, data, f"{encoder}: {fate}: {detail}")
    counts = " ".join(f"{fate.name.lower()}={fates[fate]}" for fate in Fate)
    print(f"\n{kind}: cases={number} {counts} seed={SEED}")
    assert number > 0
    assert not harm, "\n".join(f"{path}: {fate}: {detail}" for fate, path, detail in harm[:5])


def test_a_case_is_the_same_whenever_it_is_made():
    cases = [mutated("PNG", seeds("PNG"), Random(f"PNG 1 {number}")) for number in range(50)]

    assert cases == [mutated("PNG", seeds("PNG"), Random(f"PNG 1 {number}")) for number in range(50)]
    assert len(set(cases)) > 40


def suffer(data: bytes, encoder: str) -> None:  # noqa: ARG001 (as the other jobs)
    """Do what the file says."""
    match data:
        case b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            time.sleep(60)
        case b"devour":
            bytes(2 * MEMORY_BYTES)
        case b"err":
            raise LookupError
        case b"refuse":
            raise CorruptImage


def test_the_bench_tells_what_became_of_a_file_and_goes_on():
    files = (b"die", b"hang", b"devour", b"err", b"refuse", b"well")
    with closing(Bench(suffer, 2)) as bench:
        fates = [bench.give(data, "jpg")[0] for data in files]

    assert fates == [Fate.CRASHED, Fate.HUNG, Fate.OUT_OF_MEMORY, Fate.WRONG, Fate.REFUSED, Fate.PICTURE]
