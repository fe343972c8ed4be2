"""If a codec runs out of memory, MemoryError is raised. The file or the picture is not reported as faulty."""

from __future__ import annotations

import subprocess
import sys

import pytest
from images import saved
from PIL import Image

pytestmark = pytest.mark.heavy

# The program tries each memory limit in a new process, because a process cannot raise its limit. Forks are cheap.
PROGRAM = """
import json, os, sys
from pixtools import memory
from pixtools.errors import CorruptImage, UnencodableImage
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode

data, options = sys.stdin.buffer.read(), json.loads(sys.argv[1])
picture = decode(data)
if options is None:
    del picture
for megabytes in (1, 3, 6, 9, 12, 16, 24, 400):
    child = os.fork()
    if child == 0:
        memory.limit(megabytes * 1_000_000)
        try:
            decode(data) if options is None else encode(picture, **options)
        except MemoryError:
            os._exit(1)
        except (CorruptImage, UnencodableImage):
            os._exit(2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def results(data: bytes, options: str) -> set[int]:
    """Return the exit codes at all memory limits: 0 is success, 1 is MemoryError, 2 is an error about the input."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, options], input=data, capture_output=True, check=True)
    return set(map(int, done.stdout.split()))


SCENE = Image.effect_noise((1_200, 900), 30).convert("RGB")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("PNG", {"compress_level": 1}),
        ("WEBP", {"method": 0}),
        ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ("AVIF", {"speed": 10}),
        ("GIF", {}),
        ("TIFF", {}),
        ("HEIF", {"quality": 30}),
    ],
)
def test_a_decoder_without_memory_does_not_blame_the_file(kind, options):
    assert results(saved(SCENE, kind, **options), "null") == {0, 1}


@pytest.mark.parametrize(
    "options",
    [
        '{"format_name": "JPEG", "optimize": true, "progressive": true}',
        '{"format_name": "PNG", "compress_level": 1}',
        '{"format_name": "WEBP", "method": 2}',
        '{"format_name": "WEBP", "lossless": true, "quality": 0, "method": 0}',
    ],
)
def test_an_encoder_without_memory_does_not_blame_the_picture(options):
    assert results(saved(SCENE, "JPEG"), options) == {0, 1}
