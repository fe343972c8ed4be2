"""Every kind of file in, every format out: what comes out looks like what was sent.

The truth is the specimen's own; the way back is plain Pillow and `color_math`. Neither has the code under test in it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from typing import Any

import numpy as np
import pytest
from color_math import Pixels
from likeness import likeness
from read_back import Seen, composed, read_back
from specimens import SPECIMENS, Specimen

from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Picture
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Resizing

OUTPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("jpg", {}),
    "png": ("png", {}),
    "webp": ("webp", {}),
    "webp lossless": ("webp", {"lossless": True}),
    "avif": ("avif", {}),
}
LOSSLESS = {"png", "webp lossless"}
MOST_SHIFT = 1.5
WHITE, BLACK = 255, 0

CELLS = [pytest.param(kind, output, id=f"{kind} to {output}") for kind in SPECIMENS for output in OUTPUTS]
PROFILED = [kind for kind, make in SPECIMENS.items() if make().icc]


def least_score(specimen: Specimen, output: str) -> float:
    """Return the score that a picture has to reach: test_likeness says what would not."""
    if output not in LOSSLESS:
        return 52
    return 65 if specimen.coarse else 85


def profile_in(specimen: Specimen, output: str) -> bytes | None:
    """Return the profile that a result has: one of grey only where the pixels are stored as grey."""
    is_grey = specimen.icc is not None and specimen.icc[16:20] == b"GRAY"
    return None if is_grey and output.startswith("webp") else specimen.icc


@cache
def decoded(kind: str) -> Picture:
    return decode(SPECIMENS[kind]().data)


@cache
def made(kind: str, output: str, color: str | None = None) -> bytes:
    name, params = OUTPUTS[output]
    operation = OPERATIONS[name]
    params = params | ({"color": color} if color else {})
    return operation.encode(decoded(kind), operation.params(**params), len(SPECIMENS[kind]().data)).data


def seen(kind: str, output: str, color: str | None = None) -> Seen:
    return read_back(made(kind, output, color))


def assert_like(specimen: Specimen, output: str, found: Seen) -> None:
    """Hold each frame against the truth, before white and, where it is transparent, before black."""
    frames = specimen.frames[:1] if output == "jpg" else specimen.frames
    for shown, true in zip(found.frames, frames, strict=True):
        grounds = (WHITE, BLACK) if found.has_alpha else (WHITE,)
        for ground in grounds:
            alike = likeness(composed(shown, ground), composed(true, ground))
            assert alike.score >= least_score(specimen, output), str(alike)
            assert alike.shift <= (2.5 if specimen.jagged else MOST_SHIFT), str(alike)


@pytest.mark.parametrize(("kind", "output"), CELLS)
def test_a_picture_comes_out_as_it_was(kind, output):
    assert_like(SPECIMENS[kind](), output, seen(kind, output))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", PROFILED)
def test_a_picture_in_srgb_shows_the_same_colors(kind, output):
    found = seen(kind, output, "srgb")

    assert found.icc != SPECIMENS[kind]().icc
    assert_like(SPECIMENS[kind](), output, found)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", [kind for kind, make in SPECIMENS.items() if make().durations])
def test_an_animation_shows_each_frame_as_long_as_before_where_the_format_can(kind, output):
    assert seen(kind, output).durations == (() if output == "jpg" else SPECIMENS[kind]().durations)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("jpg", {"progressive": True}),
    ("jpg", {"subsampling": "4:4:4"}),
    ("jpg", {"subsampling": "4:2:2"}),
    ("png", {"effort": "small"}),
    ("png", {"effort": "fast"}),
    ("webp", {"effort": 0}),
    ("webp", {"effort": 6}),
    ("avif", {"subsampling": "4:4:4"}),
    ("avif", {"encoder": "svt"}),
    ("avif", {"encoder": "rav1e"}),
    ("avif", {"speed": 6}),
]


@pytest.mark.parametrize(("op", "params"), OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["jpeg display p3", "jpeg turned 6", "png rgba", "png grey and alpha", "gif animated"])
def test_no_option_changes_what_is_seen(kind, op, params):
    specimen, operation = SPECIMENS[kind](), OPERATIONS[op]

    found = read_back(operation.encode(decoded(kind), operation.params(**params), len(specimen.data)).data)

    assert_like(specimen, op, found)
    assert (found.icc, found.has_alpha) == (specimen.icc, specimen.has_alpha and op != "jpg")
    assert found.durations == (() if op == "jpg" else specimen.durations)


def test_a_background_shows_where_a_picture_is_clear():
    specimen = SPECIMENS["png rgba"]()
    black = OPERATIONS["jpg"].params(background="#000000")

    found = read_back(OPERATIONS["jpg"].encode(decoded("png rgba"), black, len(specimen.data)).data)

    alike = likeness(found.frames[0], composed(specimen.frames[0], BLACK))
    assert alike.score >= 52, str(alike)
    assert alike.shift <= MOST_SHIFT, str(alike)


def quartered(pixels: Pixels) -> Pixels:
    """Return the means of 4 × 4 pixels, those that show more counting more."""
    height, width, samples = pixels.shape
    weighted = pixels.astype(float)
    if samples == 4:
        weighted[..., :3] *= weighted[..., 3:] / 255
    means = weighted.reshape(height // 4, 4, width // 4, 4, samples).mean(axis=(1, 3))
    if samples == 4:
        means[..., :3] /= np.maximum(means[..., 3:], 1) / 255
    return means.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", SPECIMENS)
def test_a_small_picture_is_the_mean_of_the_large_one(kind):
    """Decoded no larger than it takes, which is half its size for a JPEG."""
    specimen, small = SPECIMENS[kind](), OPERATIONS["png"].params(resize=Resizing(width=48), frames="first")

    found = read_back(OPERATIONS["png"].encode(decode(specimen.data, (48, 32)), small, len(specimen.data)).data)

    for ground in (WHITE, BLACK):
        alike = likeness(composed(found.frames[0], ground), composed(quartered(specimen.frames[0]), ground))
        assert alike.score >= 65, str(alike)
        assert alike.shift <= MOST_SHIFT, str(alike)


@pytest.mark.parametrize(("kind", "output"), CELLS)
def test_transparency_is_kept_or_composed_on_white(kind, output):
    specimen, found = SPECIMENS[kind](), seen(kind, output)

    assert found.has_alpha == (specimen.has_alpha and output != "jpg")
    if found.has_alpha:
        off = np.abs(found.frames[0][..., 3].astype(int) - specimen.frames[0][..., 3])
        assert off.mean() < (0.01 if output in LOSSLESS and not specimen.coarse else 2)


@pytest.mark.parametrize(("kind", "output"), CELLS)
def test_a_profile_goes_along_with_the_pixels_that_it_describes(kind, output):
    assert seen(kind, output).icc == profile_in(SPECIMENS[kind](), output)


@pytest.mark.parametrize(("kind", "output"), CELLS)
def test_a_picture_stands_upright_with_no_tag_that_turns_it(kind, output):
    found = seen(kind, output)

    assert found.tags.get(0x0112, 1) == 1
    assert found.frames[0].shape[:2] == SPECIMENS[kind]().frames[0].shape[:2]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (Debian: libimage-exiftool-perl)")
def test_no_picture_says_where_it_was_taken(tmp_path):
    """By a reader that knows every place where a place can stand."""
    located = [kind for kind in SPECIMENS if SPECIMENS[kind]().located]
    for kind in located:
        (tmp_path / f"source {kind}").write_bytes(SPECIMENS[kind]().data)
        for output in OUTPUTS:
            (tmp_path / f"result {kind} to {output}").write_bytes(made(kind, output))

    tags = ("-gps*", "-geo*", "-location*", "-serial*")
    command = ["exiftool", "-json", "-a", "-u", "-ee", "-G1", *tags, "-ext", "*", tmp_path]
    answer = subprocess.run(command, capture_output=True, check=True)

    places = {found.pop("SourceFile").rsplit("/", 1)[1]: found for found in json.loads(answer.stdout)}
    assert len(places) == len(located) * (1 + len(OUTPUTS))
    assert {name for name, tags in places.items() if tags} == {f"source {kind}" for kind in located}
