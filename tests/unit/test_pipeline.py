"""Pipelines: the steps of a job in one process."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from images import camera_jpeg, opened, photo, saved, truncated_jpeg

from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import EFFORTS, load_engine
from pixtools.errors import CorruptImage, ImageTooLarge, InvalidPlan, UnsupportedType
from pixtools.limits import Limits
from pixtools.pipeline import Pipeline


def test_steps_of_all_kinds_leave_their_files():
    steps = {
        "small": {"op": "resize", "input": "source", "width": 48},
        "marked": {"op": "watermark", "input": "small", "image": "logo"},
        "web": {"op": "webp", "input": "marked"},
        "facts": {"op": "metadata", "input": "source"},
        "file": {"op": "metadata", "input": "web"},
        "all": {"op": "zip", "input": ["web", "facts"]},
    }
    logo = saved(np.full((8, 8, 3), 255, np.uint8), "PNG")
    files = Pipeline(steps, parts={"logo": logo}).run(camera_jpeg(96, 64), "a/Photo 1.jpg")

    assert set(files) == {"web", "facts", "file", "all"}  # those that the API would list as artifacts
    web = files["web"]
    assert (web.name, web.media_type, web.width, web.height) == ("Photo 1-web.webp", "image/webp", 48, 32)
    assert opened(web.data).size == (48, 32)
    assert json.loads(files["facts"].data) == files["facts"].result
    assert files["file"].result["media_type"] == "image/webp"
    with zipfile.ZipFile(io.BytesIO(files["all"].data)) as bundle:
        assert bundle.namelist() == ["Photo 1-web.webp", "Photo 1-facts.json"]
        assert bundle.read("Photo 1-web.webp") == web.data


def test_one_pipeline_runs_on_many_pictures_of_different_sizes():
    pipeline = Pipeline({"tiny": {"op": "png", "input": "source", "resize": {"width": 10}}})
    for side in (20, 40, 80):
        file = pipeline.run(saved(photo(side, side), "PNG"))["tiny"]
        assert (file.name, file.width, file.height) == ("image-tiny.png", 10, 10)


@pytest.mark.parametrize(
    ("data", "error"), [(b"hello", UnsupportedType), (saved(photo(200, 10), "PNG"), ImageTooLarge)]
)
def test_pictures_that_the_service_refuses_are_refused(data, error):
    with pytest.raises(error):
        Pipeline({"web": {"op": "webp", "input": "source"}}, limits=Limits(10_000, 150, 1)).run(data)


def test_the_error_of_a_step_names_the_step():
    with pytest.raises(CorruptImage) as raised:
        Pipeline({"web": {"op": "webp", "input": "source"}}).run(truncated_jpeg())
    assert raised.value.__notes__ == ["The step `web` failed."]


def test_mistakes_in_the_steps_are_listed():
    with pytest.raises(InvalidPlan) as raised:
        Pipeline({"web": {"op": "webb", "input": "source"}, "png": {"op": "png"}}).run(camera_jpeg())
    assert [fault.pointer for fault in raised.value.faults] == ["/steps/web/op", "/steps/png/input"]


@pytest.mark.heavy
def test_the_weights_for_white_noise_remove_more_white_noise():
    noisy = photo(320, 240) + np.random.default_rng(1).normal(0, 25, (240, 320, 3))
    steps = {name: {"op": "denoise", "input": "source", "noise": name} for name in ("any", "white")}

    files = Pipeline(steps).run(saved(noisy.clip(0, 255).astype(np.uint8), "PNG"))

    errors = {
        name: np.std(np.asarray(opened(file.data), dtype=float) - photo(320, 240)) for name, file in files.items()
    }
    assert errors["white"] < errors["any"]


@pytest.mark.heavy
@pytest.mark.parametrize("noise", ["any", "white"])
def test_each_effort_removes_most_of_the_noise(noise):
    given = (photo(320, 240) + np.random.default_rng(1).normal(0, 25, (240, 320, 3))).clip(0, 255).astype(np.uint8)
    steps = {effort: {"op": "denoise", "input": "source", "noise": noise, "effort": effort} for effort in EFFORTS}

    files = Pipeline(steps).run(saved(given, "PNG"))

    normal, fast = (np.asarray(opened(files[effort].data), dtype=float) for effort in EFFORTS)
    names = {load_engine(load_shipped(), effort=effort).name for effort in EFFORTS}
    assert (normal == fast).all() == (len(names) == 1)  # on a CPU that has only one precision, they are equal
    truth = photo(320, 240).astype(float)
    for clean in (normal, fast):
        assert np.std(clean - truth) < 0.4 * np.std(given - truth)


@pytest.mark.heavy
def test_denoised_pixels_go_on_to_all_readers():
    noisy = photo(160, 120) + np.random.default_rng(1).normal(0, 20, (120, 160, 3))
    steps = {
        "clean": {"op": "denoise", "input": "source"},
        "web": {"op": "webp", "input": "clean", "lossless": True},
        "grey": {"op": "grayscale", "input": "clean"},
    }
    given = noisy.clip(0, 255).astype(np.uint8)
    files = Pipeline(steps).run(saved(given, "PNG"))

    result = files["clean"].result
    assert result == {"sigma": pytest.approx(20, abs=4), "denoised": True, "passes": 1} | {
        name: result[name] for name in ("noise", "remaining")
    }
    clean = np.asarray(opened(files["clean"].data).convert("RGB"))
    assert np.array_equal(np.asarray(opened(files["web"].data).convert("RGB")), clean)
    assert opened(files["grey"].data).size == (160, 120)
    assert np.std(clean.astype(float) - photo(160, 120)) < 0.5 * np.std(given.astype(float) - photo(160, 120))
