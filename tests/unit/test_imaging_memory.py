"""A codec that can get no memory says so; it is not the file that is damaged, nor the picture that does not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
from images import saved
from PIL import Image

# Each limit in a process of its own, which costs little where it is forked.
PROGRAM = """
import json, os, sys
from pixtools import memory
from pixtools.errors import CorruptImage, UnencodableImage
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode

data, work = sys.stdin.buffer.read(), json.loads(sys.argv[1])
picture = decode(data)
if work is None:
    del picture
for megabytes in (1, 3, 6, 9, 12, 16, 24, 400):
    child = os.fork()
    if child == 0:
        memory.limit(megabytes * 1_000_000)
        try:
            decode(data) if work is None else encode(picture, **work)
        except MemoryError:
            os._exit(1)
        except (CorruptImage, UnencodableImage):
            os._exit(2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def ends(data: bytes, work: str) -> set[int]:
    """Return how it ended with ever more memory: 0 well, 1 without memory, 2 with blame."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, work], input=data, capture_output=True, check=True)
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
    assert ends(saved(SCENE, kind, **options), "null") == {0, 1}


@pytest.mark.parametrize(
    "work",
    [
        '{"kind": "JPEG", "optimize": true, "progressive": true}',
        '{"kind": "PNG", "compress_level": 1}',
        '{"kind": "WEBP", "method": 2}',
        '{"kind": "WEBP", "lossless": true, "quality": 0, "method": 0}',
    ],
)
def test_an_encoder_without_memory_does_not_blame_the_picture(work):
    assert ends(saved(SCENE, "JPEG"), work) == {0, 1}
