"""Every type of input file is converted to every output format. Each result looks like the original.

The expected pixels come from the specimen. Plain Pillow reads the results, and `color_math` converts their colours.
Neither Pillow nor `color_math` uses the code under test.
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
from pixtools.operations.base.resizing import Resizing

pytestmark = pytest.mark.heavy

OUTPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("jpg", {}),
    "png": ("png", {}),
    "webp": ("webp", {}),
    "webp lossless": ("webp", {"lossless": True}),
    "avif": ("avif", {}),
}
LOSSLESS = {"png", "webp lossless"}
MAX_SHIFT = 1.5
WHITE, BLACK = 255, 0

CASES = [pytest.param(kind, output, id=f"{kind} to {output}") for kind in SPECIMENS for output in OUTPUTS]
PROFILED = [kind for kind, make in SPECIMENS.items() if make().icc]


def lowest_score(specimen: Specimen, output: str) -> float:
    """Return the score that a result must reach. test_likeness.py shows which mistakes score lower."""
    if output not in LOSSLESS:
        return 52
    return 65 if specimen.coarse else 85


def expected_profile(specimen: Specimen, output: str) -> bytes | None:
    """Return the profile that a result should have. WebP cannot store grey, so it gets no grey profile."""
    is_grey = specimen.icc is not None and specimen.icc[16:20] == b"GRAY"
    return None if is_grey and output.startswith("webp") else specimen.icc


@cache
def decoded(kind: str) -> Picture:
    return decode(SPECIMENS[kind]().data)


@cache
def encoded(kind: str, output: str, color: str | None = None) -> bytes:
    name, params = OUTPUTS[output]
    operation = OPERATIONS[name]
    params = params | ({"color": color} if color else {})
    return operation.encode(decoded(kind), operation.params(**params), len(SPECIMENS[kind]().data)).data


def result(kind: str, output: str, color: str | None = None) -> Seen:
    return read_back(encoded(kind, output, color))


def assert_like(specimen: Specimen, output: str, found: Seen) -> None:
    """Compare each frame with the expected pixels on a white ground. Compare transparent frames on black too."""
    frames = specimen.frames[:1] if output == "jpg" else specimen.frames
    for actual, expected in zip(found.frames, frames, strict=True):
        for ground in (WHITE, BLACK) if found.has_alpha else (WHITE,):
            alike = likeness(composed(actual, ground), composed(expected, ground))
            assert alike.score >= lowest_score(specimen, output), str(alike)
            assert alike.shift <= (2.5 if specimen.jagged else MAX_SHIFT), str(alike)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_a_result_looks_like_the_original(kind, output):
    assert_like(SPECIMENS[kind](), output, result(kind, output))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", PROFILED)
def test_a_result_converted_to_srgb_shows_the_same_colours(kind, output):
    found = result(kind, output, "srgb")

    assert found.icc != SPECIMENS[kind]().icc
    assert_like(SPECIMENS[kind](), output, found)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", [kind for kind, make in SPECIMENS.items() if make().durations])
def test_formats_with_animation_keep_the_duration_of_each_frame(kind, output):
    assert result(kind, output).durations == (() if output == "jpg" else SPECIMENS[kind]().durations)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("jpg", {"progressive": True}),
    ("jpg", {"subsampling": "4:4:4"}),
    ("jpg", {"subsampling": "4:2:2"}),
    ("png", {"effort": "small"}),
    ("png", {"effort": "fast"}),
    ("webp", {"effort": 0}),
    ("webp", {"effort": 6}),
    ("avif", {"subsampling": "4:4:4"}),
    ("avif", {"speed": 6}),
]


@pytest.mark.parametrize(("op", "params"), OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["jpeg display p3", "jpeg turned 6", "png rgba", "png grey and alpha", "gif animated"])
def test_no_option_changes_how_the_result_looks(kind, op, params):
    specimen, operation = SPECIMENS[kind](), OPERATIONS[op]

    found = read_back(operation.encode(decoded(kind), operation.params(**params), len(specimen.data)).data)

    assert_like(specimen, op, found)
    assert (found.icc, found.has_alpha) == (specimen.icc, specimen.has_alpha and op != "jpg")
    assert found.durations == (() if op == "jpg" else specimen.durations)


def test_transparent_pixels_show_the_background_of_a_jpg():
    specimen = SPECIMENS["png rgba"]()
    black = OPERATIONS["jpg"].params(background="#000000")

    found = read_back(OPERATIONS["jpg"].encode(decoded("png rgba"), black, len(specimen.data)).data)

    alike = likeness(found.frames[0], composed(specimen.frames[0], BLACK))
    assert alike.score >= 52, str(alike)
    assert alike.shift <= MAX_SHIFT, str(alike)


def quartered(pixels: Pixels) -> Pixels:
    """Return the means of blocks of 4 × 4 pixels. Colours are weighted by alpha."""
    height, width, samples = pixels.shape
    weighted = pixels.astype(float)
    if samples == 4:
        weighted[..., :3] *= weighted[..., 3:] / 255
    means = weighted.reshape(height // 4, 4, width // 4, 4, samples).mean(axis=(1, 3))
    if samples == 4:
        means[..., :3] /= np.maximum(means[..., 3:], 1) / 255
    return means.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", SPECIMENS)
def test_a_picture_resized_to_a_quarter_is_the_mean_of_4_by_4_pixels(kind):
    """The decoder may shrink a picture on load. In this test, a JPEG is decoded at half of its size."""
    specimen, small = SPECIMENS[kind](), OPERATIONS["png"].params(resize=Resizing(width=48), frames="first")

    found = read_back(OPERATIONS["png"].encode(decode(specimen.data, (48, 32)), small, len(specimen.data)).data)

    for ground in (WHITE, BLACK):
        alike = likeness(composed(found.frames[0], ground), composed(quartered(specimen.frames[0]), ground))
        assert alike.score >= 65, str(alike)
        assert alike.shift <= MAX_SHIFT, str(alike)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_transparency_is_kept_by_all_formats_except_jpg(kind, output):
    specimen, found = SPECIMENS[kind](), result(kind, output)

    assert found.has_alpha == (specimen.has_alpha and output != "jpg")
    if found.has_alpha:
        error = np.abs(found.frames[0][..., 3].astype(int) - specimen.frames[0][..., 3])
        assert error.mean() < (0.01 if output in LOSSLESS and not specimen.coarse else 2)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_the_result_has_the_profile_that_describes_its_pixels(kind, output):
    assert result(kind, output).icc == expected_profile(SPECIMENS[kind](), output)


@pytest.mark.parametrize(("kind", "output"), CASES)
def test_a_result_is_upright_without_an_orientation_tag(kind, output):
    found = result(kind, output)

    assert found.tags.get(0x0112, 1) == 1
    assert found.frames[0].shape[:2] == SPECIMENS[kind]().frames[0].shape[:2]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (Debian: libimage-exiftool-perl)")
def test_exiftool_finds_no_location_in_any_result(tmp_path):
    located = [kind for kind in SPECIMENS if SPECIMENS[kind]().located]
    for kind in located:
        (tmp_path / f"source {kind}").write_bytes(SPECIMENS[kind]().data)
        for output in OUTPUTS:
            (tmp_path / f"result {kind} to {output}").write_bytes(encoded(kind, output))

    tags = ("-gps*", "-geo*", "-location*", "-serial*")
    command = ["exiftool", "-json", "-a", "-u", "-ee", "-G1", *tags, "-ext", "*", tmp_path]
    answer = subprocess.run(command, capture_output=True, check=True)

    places = {found.pop("SourceFile").rsplit("/", 1)[1]: found for found in json.loads(answer.stdout)}
    assert len(places) == len(located) * (1 + len(OUTPUTS))
    assert {name for name, tags in places.items() if tags} == {f"source {kind}" for kind in located}
