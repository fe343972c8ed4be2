"""Fuzz each decoder. Damaged files must not harm the ingress, and must raise no unexpected exception in a converter.

PIXTOOLS_FUZZ_SECONDS is the time for each format, in seconds. Each value of PIXTOOLS_FUZZ_SEED makes different cases.
Harmful files are kept in build/fuzz, each with a text file that describes the harm.
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
from images import photo, saved
from mutations import mutated
from PIL import Image
from specimens import SPECIMENS, as_16_bit, tiff
from worker_process import ENCODERS, MEMORY_BYTES, Result, WorkerProcess, convert, inspect_upload

from pixtools.errors import CorruptImage
from pixtools.imaging.formats import MEDIA_TYPES

SECONDS = float(os.environ.get("PIXTOOLS_FUZZ_SECONDS", "2"))
SEED = os.environ.get("PIXTOOLS_FUZZ_SEED", "1")
KEPT_FILES = Path(__file__).parents[2] / "build" / "fuzz"
DEADLINE_S = 20  # long for files of some kilobytes, because other tests may run at the same time
MAX_SEED_BYTES = 30_000  # in larger files, most mutations hit pixels instead of structure

HARM_TO_THE_INGRESS = {Result.CRASHED, Result.HUNG, Result.OUT_OF_MEMORY, Result.UNEXPECTED}


def small_files() -> Iterator[tuple[str, bytes]]:
    """Yield the format and the bytes of small files. SPECIMENS lacks these variants or has them only as large files."""
    small = Image.fromarray(photo(40, 24))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield "TIFF", saved(small, "TIFF", compression=compression)
    for mode in ("1", "L", "P", "CMYK", "YCbCr", "I;16", "F", "LAB"):
        yield "TIFF", saved(small.convert("L").convert(mode) if mode in ("I;16", "F") else small.convert(mode), "TIFF")
    yield "TIFF", saved(small.convert("1"), "TIFF", compression="group4")
    yield "TIFF", saved(small, "TIFF", save_all=True, append_images=[small, small])
    yield "TIFF", tiff(photo(40, 24), tile=16)
    yield "TIFF", tiff(as_16_bit(photo(40, 24)))
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield "BMP", saved(small.convert(mode), "BMP")
    yield "GIF", saved(small.quantize(4), "GIF", interlace=1)
    yield "PNG", saved(small.quantize(4), "PNG", bits=2)


def seeds(format_name: str) -> list[bytes]:
    """Return the valid files of a format, which the mutations damage."""
    prefix = "heic" if format_name == "HEIF" else format_name.lower()
    files = [make().data for name, make in SPECIMENS.items() if name.split()[0] == prefix]
    files += [data for name, data in small_files() if name == format_name]
    return [data for data in files if len(data) <= MAX_SEED_BYTES]


def keep(format_name: str, number: int, data: bytes, description: str) -> Path:
    """Write a harmful file and a description of the harm. Return the path of the harmful file."""
    KEPT_FILES.mkdir(parents=True, exist_ok=True)
    path = KEPT_FILES / f"{format_name.lower()}-{SEED}-{number}"
    path.write_bytes(data)
    path.with_name(path.name + ".txt").write_text(description + "\n")
    return path


@pytest.fixture(scope="module")
def ingress():
    with closing(WorkerProcess(inspect_upload, DEADLINE_S)) as process:
        yield process


@pytest.fixture(scope="module")
def converter():
    with closing(WorkerProcess(convert, DEADLINE_S)) as process:
        yield process


@pytest.mark.parametrize("format_name", MEDIA_TYPES)
def test_a_damaged_file_harms_no_ingress_and_raises_no_unexpected_exception_in_a_converter(
    format_name, ingress, converter
):
    files, end = seeds(format_name), time.monotonic() + SECONDS
    results, harm, number = Counter(), [], 0
    for number in itertools.count():
        if time.monotonic() > end:
            break
        data = mutated(format_name, files, Random(f"{format_name} {SEED} {number}"))
        encoder = ENCODERS[number % len(ENCODERS)]
        result, detail = ingress.run(data, encoder)
        if result in HARM_TO_THE_INGRESS:
            harm.append((result, keep(format_name, number, data, f"ingress: {result}: {detail}"), detail))
            continue
        if result == Result.PICTURE:
            result, detail = converter.run(data, encoder)
        results[result] += 1
        if result == Result.UNEXPECTED:
            harm.append((result, keep(format_name, number, data, f"{encoder}: {detail}"), detail))
        elif result in (Result.CRASHED, Result.HUNG):
            keep(format_name, number, data, f"{encoder}: {result}: {detail}")
    counts = " ".join(f"{result.name.lower()}={results[result]}" for result in Result)
    print(f"\n{format_name}: cases={number} {counts} seed={SEED}")
    assert number > 0
    assert not harm, "\n".join(f"{path}: {result}: {detail}" for result, path, detail in harm[:5])


def test_a_case_is_the_same_in_every_run():
    cases = [mutated("PNG", seeds("PNG"), Random(f"PNG 1 {number}")) for number in range(50)]

    assert cases == [mutated("PNG", seeds("PNG"), Random(f"PNG 1 {number}")) for number in range(50)]
    assert len(set(cases)) > 40


def obey(data: bytes, encoder: str) -> None:  # noqa: ARG001 (WorkerProcess calls functions with this signature)
    """Cause the result that `data` asks for."""
    match data:
        case b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            time.sleep(60)
        case b"allocate":
            bytes(2 * MEMORY_BYTES)
        case b"fail":
            raise LookupError
        case b"refuse":
            raise CorruptImage


def test_a_worker_process_reports_every_result_and_continues():
    files = (b"die", b"hang", b"allocate", b"fail", b"refuse", b"succeed")
    with closing(WorkerProcess(obey, 2)) as process:
        results = [process.run(data, "jpg")[0] for data in files]

    assert results == [
        Result.CRASHED,
        Result.HUNG,
        Result.OUT_OF_MEMORY,
        Result.UNEXPECTED,
        Result.REFUSED,
        Result.PICTURE,
    ]
