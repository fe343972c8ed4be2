"""Compares the peak memory of a converter with the bound that the converter pool uses to choose a node.

Exits with status 1 if a peak exceeds its bound. Each case runs in a new process, from the source in S3 to the artifact
in S3. The cases are all decoders, with the worst variants of their formats, and all operations except `denoise` and
`zip`. The pictures are full of noise. The peak is the memory in addition to the memory of an idle converter. Two
numbers are measured, and the larger one counts: the data segment, which the memory limit of a converter counts too, and
the resident memory. The data segment is sampled, and the kernel records the peak of the resident memory.

    python benchmarks/memory.py                     # all cases, some minutes
    python benchmarks/memory.py --only avif         # the cases whose name contains this word
    python benchmarks/memory.py --work-items 30     # print the memory that one process keeps after many work items
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from dag.messages import Inputs, SourceWork
from dag.plan import Source
from dag.segment_memory import footprint
from dag.segments import plan_segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.limits import Limits
from pixtools.local import ports, s3_server
from pixtools.local.home import Home
from pixtools.settings import Settings

LIMITS = Limits(pixels=60_000_000, side=16_384, frames=100)
MB = 1_000_000
SAMPLE_S = 0.002

# A converter has a worker, and both take memory. The parent process samples the data segments of both from the first
# line of output until this process ends.
CHILD = """
import os, pathlib, pickle, sys
from actors.converter import Converter
from pixtools.jobs.outcomes import Failed
def kilobytes(name):
    texts = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith(name))
settings, work_items = pickle.load(sys.stdin.buffer)
converter = Converter(settings)
converter.ready()
pids = [os.getpid(), converter._worker.pid]
for pid in pids:
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the high-water mark
idle = {name: kilobytes(name) for name in ("VmData:", "VmRSS:")}
print(idle["VmData:"], idle["VmRSS:"], *pids, flush=True)
for work_item in work_items:
    for message in converter.run(work_item):
        if isinstance(message, Failed):
            sys.exit(f"{message.step}: {message.error!r}")
    del message
    print(kilobytes("VmData:"), kilobytes("VmRSS:"), kilobytes("VmHWM:"), flush=True)
"""


@dataclass(frozen=True)
class Case:
    """Steps on a source. `kind` is the format of the source. `options` are Pillow's options to write the source."""

    name: str
    megapixels: float
    steps: dict[str, Any]
    kind: str = "JPEG"
    mode: str = "RGB"
    options: dict[str, Any] = field(default_factory=dict)


def one(op: str, **params: Any) -> dict[str, Any]:
    """Return a `steps` document with one step."""
    return {"it": {"op": op, "input": "source", **params}}


# This step needs the least memory, so decoding decides the peak.
DECODED = one("crop", width=16, height=16)
TURNED = Image.Exif()
TURNED[0x0112] = 6
PROGRESSIVE = {"progressive": True, "subsampling": 0}
LOSSLESS = {"lossless": True, "method": 0, "quality": 0}
ALPHA: dict[str, Any] = {"kind": "PNG", "mode": "RGBA", "options": {"compress_level": 1}}

DECODERS = [
    Case("decode JPEG", 24, DECODED),
    Case("decode JPEG, progressive 4:4:4, turned", 24, DECODED, options=PROGRESSIVE | {"exif": TURNED}),
    Case("decode JPEG, progressive CMYK", 24, DECODED, mode="CMYK", options=PROGRESSIVE),
    Case("decode JPEG, progressive, at an eighth", 24, one("jpg", resize={"width": 320}), options=PROGRESSIVE),
    Case("decode PNG, alpha, turned", 24, DECODED, "PNG", "RGBA", {"compress_level": 1, "exif": TURNED}),
    Case("decode PNG, 16-bit grey", 24, DECODED, "PNG", "I;16", {"compress_level": 1}),
    Case("decode PNG, palette with alpha", 24, DECODED, "PNG", "P", {"compress_level": 1, "transparency": 3}),
    Case("decode WebP", 24, DECODED, "WEBP", options={"method": 0}),
    Case("decode WebP, lossless with alpha", 24, DECODED, "WEBP", "RGBA", LOSSLESS),
    Case("decode AVIF, 4:4:4 with alpha", 24, DECODED, "AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
    Case("decode GIF, transparent", 24, DECODED, "GIF", "P", {"transparency": 3}),
    Case("decode TIFF, deflate, alpha", 24, DECODED, "TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
    Case("decode TIFF, 32-bit float", 24, DECODED, "TIFF", "F"),
    Case("decode TIFF, CMYK", 24, DECODED, "TIFF", "CMYK"),
    Case("decode HEIC", 6, DECODED, "HEIF", options={"quality": 50}),  # x265 takes minutes for a larger picture
    Case("decode BMP", 24, DECODED, "BMP"),
    Case("metadata of WebP", 24, one("metadata"), "WEBP", "RGBA", {"method": 0}),
]  # fmt: skip

ENCODERS = [
    *(Case(f"{op}", megapixels, one(op)) for op in ("jpg", "png", "webp", "avif") for megapixels in (2, 12, 50)),
    *(Case(f"{op}, alpha", 50, one(op), "PNG", "RGBA", {"compress_level": 1}) for op in ("jpg", "png", "webp", "avif")),
    Case("webp, lossless", 50, one("webp", lossless=True)),
    Case("webp, lossless, alpha", 50, one("webp", lossless=True), "PNG", "RGBA", {"compress_level": 1}),
    *(Case(f"avif, speed {speed}", 4, one("avif", speed=speed)) for speed in (2, 4, 6, 8, 10)),
    Case("avif, 4:4:4, alpha", 12, one("avif", subsampling="4:4:4"), **ALPHA),
    Case("webp, effort 6", 4, one("webp", effort=6)),
    Case("webp, lossless, effort 6, alpha", 4, one("webp", effort=6, lossless=True), **ALPHA),
    Case("jpg, progressive 4:4:4", 50, one("jpg", progressive=True, subsampling="4:4:4")),
    Case("png, palette, alpha", 12, one("png", palette=256), **ALPHA),
    Case("png, palette, few colours", 12, one("png", palette=256), "PNG", "P", {"compress_level": 1}),
    *(Case(f"{op}, target", 12, one(op, target=70), **ALPHA) for op in ("jpg", "webp", "avif")),
    *(Case(f"{op}, max_bytes", 12, one(op, max_bytes=1_500_000)) for op in ("jpg", "webp", "avif")),
    Case("avif, to sRGB", 12, one("avif", color="srgb"), **ALPHA),
    Case("avif after a cover", 50, one("avif", resize={"width": 4000, "height": 4000, "fit": "cover"}), "PNG", "RGBA",
         {"compress_level": 1}),
    Case("jpg, enlarged", 2, one("jpg", resize={"width": 8600, "upscale": True})),
]  # fmt: skip

TRANSFORMS = [
    Case(f"{op}, {label}", megapixels, one(op, **params), **kind)
    for op, params in (
        ("resize", {"width": 5900}),
        ("crop", {"width": 1000, "height": 1000}),
        ("rotate", {"degrees": 90}),
        ("rotate", {"degrees": 10}),
        ("flip", {}),
        ("blur", {"radius": 20}),
        ("sharpen", {}),
        ("grayscale", {}),
        ("watermark", {"text": "benchmark", "position": "tile"}),
    )
    for label, kind in (("opaque", {}), ("alpha", ALPHA))
    for megapixels in (24,)
]
CHAINS = [
    Case("three kept transforms", 50, {
        "a": {"op": "flip", "input": "source"}, "b": {"op": "blur", "input": "a"}, "c": {"op": "sharpen", "input": "b"},
        "x": {"op": "webp", "input": "a"}, "y": {"op": "avif", "input": "b"}, "z": {"op": "jpg", "input": "c"},
    }),
]  # fmt: skip
CASES = [*DECODERS, *ENCODERS, *TRANSFORMS, *CHAINS]


def main() -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cases whose name contains this word")
    parser.add_argument(
        "--work-items", "--orders", type=int, default=0, help="run this many large work items in one process instead"
    )
    options = parser.parse_args()
    with storage() as settings:
        if options.work_items:
            show_kept_memory(settings, options.work_items)
        else:
            sys.exit(1 if check_bounds(settings, options.only) else 0)


def check_bounds(settings: Settings, only: str) -> int:
    """Print the peak memory and the bound of each case. Return how many bounds are broken."""
    broken = 0
    print(f"{'':42} {'MP':>4} {'data':>7} {'RSS':>7} {'bound':>7}  ratio  bytes/pixel")
    for case in CASES:
        if only.lower() not in case.name.lower():
            continue
        work_item, bound = prepare(settings, case)
        data, resident = measure(settings, work_item)
        peak = max(data, resident)
        broken += peak > bound
        print(
            f"{case.name:42} {case.megapixels:4g} {data / MB:7.0f} {resident / MB:7.0f} {bound / MB:7.0f}"
            f" {peak / bound:6.2f}  {peak / case.megapixels / MB:6.1f} {'BROKEN' if peak > bound else ''}",
            flush=True,
        )
    print(f"{broken} bounds broken; numbers are MB more than an idle converter takes")
    return broken


def prepare(settings: Settings, case: Case) -> tuple[SourceWork, int]:
    """Put the source of a case into S3. Return the work item, and the bound of its memory in bytes."""
    height = round((case.megapixels * MB / 1.5) ** 0.5)
    size = (round(1.5 * height), height)
    data = noise(size, case)
    sha256 = hashlib.sha256(data).hexdigest()
    BlobStore(settings).put(f"sources/{sha256}", data, MEDIA_TYPES[case.kind])
    upright = size[::-1] if "exif" in case.options else size
    plan = build(case.steps, Source("it", sha256, upright, media_type=MEDIA_TYPES[case.kind]), 50, LIMITS)
    (segment,) = plan_segments(plan, frozenset(plan.by_name), 1)
    work_item = SourceWork(segment, Inputs("benchmark", f"sources/{sha256}", len(data)))
    return work_item, footprint(plan, segment, len(data))


def noise(size: tuple[int, int], case: Case) -> bytes:
    """Return a file with six random bits per value on a gradient. Such noise is as hard to compress as film grain."""
    rng = np.random.default_rng(0)
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4}.get(case.mode, 1)
    array = rng.integers(0, 64, (size[1], size[0], channels), dtype=np.uint8)
    array += np.linspace(0, 190, size[0]).astype(np.uint8)[None, :, None]
    image: Image.Image
    match case.mode:
        case "I;16":
            image = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
        case "F":
            image = Image.fromarray(array[..., 0].astype(np.float32))
        case "P":
            image = Image.fromarray(array[..., 0])
            image = Image.merge("RGB", [image] * 3).quantize(64, dither=Image.Dither.NONE)
        case _:
            image = Image.fromarray(array, case.mode)
    out = io.BytesIO()
    if case.kind == "HEIF":
        pillow_heif.from_pillow(image).save(out, **case.options)
        return out.getvalue()
    image.save(out, case.kind, **case.options)
    return out.getvalue()


def measure(settings: Settings, work_item: SourceWork) -> tuple[int, int]:
    """Return the peaks of the data segment and of the resident memory, in bytes more than an idle converter takes."""
    with converter(settings, [work_item]) as process:
        idle_data, idle_resident, *pids = map(int, process.stdout.readline().split())
        peak_data = idle_data
        while process.poll() is None:
            with contextlib.suppress(OSError):
                lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
                peak_data = max(peak_data, sum(int(line.split()[1]) for line in lines if line.startswith("VmData:")))
            time.sleep(SAMPLE_S)
        _, _, resident = map(int, process.stdout.readline().split())
    return (peak_data - idle_data) * 1024, (resident - idle_resident) * 1024


def show_kept_memory(settings: Settings, count: int) -> None:
    """Print the memory that a converter keeps after each of `count` large work items of several kinds."""
    rng = np.random.default_rng(1)
    kinds = [case for case in ENCODERS if "speed" not in case.name]
    work_items = []
    for number in range(count):
        case = kinds[number % len(kinds)]
        size = round(float(rng.uniform(5, 40)), 1)
        work_items.append(prepare(settings, Case(case.name, size, case.steps, case.kind, case.mode, case.options))[0])
    with converter(settings, work_items) as process:
        idle_data, idle_resident, *_ = map(int, process.stdout.readline().split())
        print("memory kept after each work item, in MB more than when idle: data segment, resident memory")
        for number in range(count):
            data, resident, _ = map(int, process.stdout.readline().split())
            print(f"{number:3} {(data - idle_data) / 1000:7.0f} {(resident - idle_resident) / 1000:7.0f}", flush=True)


@contextlib.contextmanager
def converter(settings: Settings, work_items: list[SourceWork]) -> Iterator[Any]:
    """Yield the process of a converter that runs these work items."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps((settings, work_items)))
    process.stdin.close()
    with process:
        yield process
    if process.returncode:
        raise SystemExit("a converter failed")


@contextlib.contextmanager
def storage() -> Iterator[Settings]:
    """Start an S3 server. Yield settings that use this server and do not limit converters."""
    with tempfile.TemporaryDirectory(prefix="pixtools-bench-") as folder:
        server = s3_server.start(Home(Path(folder) / "home"), ports.free_port())
        try:
            server.wait()
            env = {name.removeprefix("PIXTOOLS_").lower(): value for name, value in server.env.items()}
            yield Settings(
                database_url="postgresql://none", redis_url="redis://none", converter_memory_bytes=1 << 40, **env
            )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
