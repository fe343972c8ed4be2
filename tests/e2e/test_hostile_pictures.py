"""Unusual and hostile pictures are sent to the API. Each of them becomes a correct picture.

test_inputs.py contains the tests of pictures that are refused at once. test_jobs.py contains the test of truncated
pictures.
"""

from __future__ import annotations

import io
import zipfile

import pytest
from images import exif, saved, wide_gamut_profile
from likeness import likeness
from PIL import Image
from read_back import composed, read_back
from specimens import SPECIMENS, indexed, scene

OUTPUTS = {name: {"op": name, "input": "source"} for name in ("jpg", "png", "webp", "avif")}

TAIL = b"*/;window.stolen=document.cookie;//"


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("payload.html", TAIL)
    return out.getvalue()


def gif_that_is_a_script() -> bytes:
    """Return a GIF that is also a script. The two bytes of its width are `/*`, which start a comment in JavaScript.

    So a browser that runs the file as a script skips the pixels.
    """
    image, _ = indexed(scene())
    data = bytearray(saved(image.resize((ord("/") + 256 * ord("*"), 2)), "GIF"))
    assert data[6:8] == b"/*"
    return bytes(data) + TAIL


POLYGLOTS = {
    "gif and js": gif_that_is_a_script,
    "jpeg and zip": lambda: saved(scene(), "JPEG") + zipped(),
    "jpeg and js in its comment": lambda: saved(scene(), "JPEG", comment=TAIL),
    "png and zip": lambda: saved(scene(), "PNG") + zipped(),
    "webp and html": lambda: saved(scene(), "WEBP") + b"<script>" + TAIL,
    "bmp and js": lambda: saved(scene(), "BMP") + TAIL,
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_of_a_file_of_two_types_only_the_picture_comes_out(api, name):
    data = POLYGLOTS[name]()
    assert TAIL in data

    job = api.wait(api.submit("two.bin", data, OUTPUTS))

    assert job["state"] == "succeeded", job
    for step in OUTPUTS:
        made = api.download(job, step)
        assert TAIL not in made, step
        assert not zipfile.is_zipfile(io.BytesIO(made)), step
        assert Image.MIME[Image.open(io.BytesIO(made)).format] == job["steps"][step]["artifact"]["media_type"]


UNUSUAL = {
    "cmyk": SPECIMENS["jpeg cmyk with profile"],
    "cmyk without a profile": SPECIMENS["jpeg cmyk"],
    "16 bit": SPECIMENS["png 16 bit rgb"],
    "16 bit grey": SPECIMENS["png 16 bit grey"],
    "palette": SPECIMENS["png palette"],
}


def assert_correct(api, job, frame):
    """Assert that each result of a job looks like `frame`."""
    assert job["state"] == "succeeded", job
    for step in OUTPUTS:
        found = read_back(api.download(job, step))
        alike = likeness(composed(found.frames[0], 255), composed(frame, 255))
        assert alike.score > 52, (step, alike)
        assert alike.shift < 1.5, (step, alike)


@pytest.mark.parametrize("name", UNUSUAL)
def test_pixel_types_that_screens_do_not_show_become_a_correct_picture(api, name):
    specimen = UNUSUAL[name]()

    job = api.wait(api.submit("odd.bin", specimen.data, OUTPUTS))

    assert_correct(api, job, specimen.frames[0])


BAD_PROFILES = {
    "not a profile": b"no profile" * 20,
    "truncated": wide_gamut_profile()[:200],
    "for grey pixels": wide_gamut_profile()[:16] + b"GRAY" + wide_gamut_profile()[20:],
    "with a stated size of 4 GB": b"\xff\xff\xff\xff" + wide_gamut_profile()[4:],
}


@pytest.mark.parametrize("name", BAD_PROFILES)
@pytest.mark.parametrize("color", ["keep", "srgb"])
def test_a_damaged_profile_does_not_fail_a_job(api, name, color):
    data = saved(scene(), "PNG", icc_profile=BAD_PROFILES[name])
    steps = {name: step | {"color": color} for name, step in OUTPUTS.items()}
    steps["exif"] = {"op": "metadata", "input": "source"}
    steps["grey"] = {"op": "grayscale", "input": "source"}

    job = api.wait(api.submit("bad-profile.png", data, steps))

    assert job["state"] == "succeeded", job


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_undefined_orientation_turns_nothing(api, orientation):
    job = api.wait(api.submit("odd.jpg", saved(scene(), "JPEG", quality=95, exif=exif(orientation)), OUTPUTS))

    assert_correct(api, job, scene())
