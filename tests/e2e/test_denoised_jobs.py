"""Denoising over HTTP: on a real denoiser, by the weights that come with PixTools."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from images import exif, photo, saved
from PIL import Image

CHAIN = {"clean": {"op": "denoise", "input": "source"}, "web": {"op": "webp", "input": "clean", "lossless": True}}


def noisy(sigma: float, width: int = 240, height: int = 160, seed: int = 1) -> np.ndarray:
    scene = photo(width, height)
    return (scene + np.random.default_rng(seed).normal(0, sigma, scene.shape)).clip(0, 255).round().astype(np.uint8)


def decibels(data: bytes, truth: np.ndarray) -> float:
    made = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
    return float(10 * np.log10(255**2 / ((made - truth) ** 2).mean()))


def png(array: np.ndarray) -> bytes:
    return saved(Image.fromarray(array), "PNG")


def test_noise_goes_and_the_result_says_how_much_there_was(api):
    job = api.wait(api.submit("noisy.png", png(noisy(25)), CHAIN))

    assert job["state"] == "succeeded", job
    assert job["steps"]["clean"]["result"] == {"sigma": pytest.approx(25, abs=2), "denoised": True}
    assert decibels(png(noisy(25)), photo(240, 160)) < 21
    assert decibels(api.download(job, "clean"), photo(240, 160)) > 30
    clean, web = (np.asarray(Image.open(io.BytesIO(api.download(job, name)))) for name in ("clean", "web"))
    assert (clean == web).all()


def test_less_strength_leaves_some_of_the_noise(api):
    steps = {str(part): {"op": "denoise", "input": "source", "strength": part / 10} for part in (0, 4, 10)}

    job = api.wait(api.submit("noisy.png", png(noisy(20, seed=2)), steps))

    none, some, all_ = (decibels(api.download(job, name), photo(240, 160)) for name in ("0", "4", "10"))
    assert none + 3 < some < all_ - 3
    assert job["steps"]["0"]["result"]["skipped"] == "strength"


def test_a_clean_picture_is_left_alone_where_the_noise_is_to_be_looked_for(api):
    scene = np.asarray(Image.fromarray(photo(24, 16)).resize((480, 320), Image.Resampling.BICUBIC))

    job = api.wait(api.submit("clean.png", png(scene), {"it": {"op": "denoise", "input": "source", "noise": "auto"}}))

    result = job["steps"]["it"]["result"]
    assert (result["denoised"], result["skipped"]) == (False, "clean")
    assert result["sigma"] < 2.5
    assert (np.asarray(Image.open(io.BytesIO(api.download(job, "it")))) == scene).all()


def test_what_was_denoised_once_serves_every_later_job(api):
    """Through its file, which shows less than the source: what the source says of itself still goes on."""
    source = saved(Image.fromarray(noisy(15, seed=3)), "PNG", exif=exif())
    api.wait(api.submit("a.png", source, CHAIN))
    steps = CHAIN | {"jpg": {"op": "jpg", "input": "clean", "strip": "none", "quality": 95}}

    job = api.wait(api.submit("a.png", source, steps))

    assert [job["steps"][name]["cached"] for name in ("clean", "web", "jpg")] == [True, True, False]
    assert job["steps"]["clean"]["result"]["denoised"]
    assert decibels(api.download(job, "jpg"), photo(240, 160)) > 31
    assert Image.open(io.BytesIO(api.download(job, "jpg"))).getexif().get_ifd(0x8825), "the place is not there"
    assert not Image.open(io.BytesIO(api.download(job, "clean"))).getexif().get_ifd(0x8825)


def test_transparency_and_grey_stay_as_they_are(api):
    alpha = np.linspace(0, 255, 240 * 160).reshape(160, 240, 1).astype(np.uint8)
    for mode, array in (("RGBA", np.dstack([noisy(25), alpha])), ("L", noisy(25)[:, :, 0])):
        job = api.wait(api.submit("it.png", png(array), {"it": {"op": "denoise", "input": "source"}}))
        made = Image.open(io.BytesIO(api.download(job, "it")))
        assert made.mode == mode
        assert mode == "L" or (np.asarray(made)[:, :, 3:] == alpha).all()
        if mode == "L":
            assert decibels(saved(made.convert("RGB"), "PNG"), np.repeat(photo(240, 160)[:, :, :1], 3, 2)) > 28


def test_noise_that_a_jpeg_has_been_over_goes_too(api):
    """Its colours are at half the size there, so it is not white any more."""
    source = saved(Image.fromarray(noisy(25, seed=6)), "JPEG", quality=95, subsampling="4:2:0")

    job = api.wait(api.submit("noisy.jpg", source, {"it": {"op": "denoise", "input": "source"}}))

    assert decibels(source, photo(240, 160)) < 25
    assert decibels(api.download(job, "it"), photo(240, 160)) > 29


def test_sixteen_bits_stay_sixteen(api):
    scene = np.linspace(0, 60_000, 200 * 100).reshape(100, 200)
    grey = (scene + np.random.default_rng(1).normal(0, 5000, scene.shape)).clip(0, 65_535).astype(np.uint16)
    steps = CHAIN | {"again": {"op": "denoise", "input": "clean", "strength": 0.1}}

    job = api.wait(api.submit("deep.png", png(grey), steps))

    assert job["state"] == "succeeded", job
    for name in ("clean", "again"):
        made = np.asarray(Image.open(io.BytesIO(api.download(job, name))))
        assert made.dtype == np.uint16 or made.max() > 255
        assert len(np.unique(made % 257)) > 100, "the lower bits say nothing"
        assert np.abs(made - scene).mean() < np.abs(grey - scene).mean() / 3
    assert Image.open(io.BytesIO(api.download(job, "web"))).mode == "RGB"


def test_every_frame_of_an_animation_is_denoised(api):
    frames = [Image.fromarray(noisy(25, seed=seed)) for seed in range(3)]
    source = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=80, lossless=True)

    job = api.wait(api.submit("moving.webp", source, {"it": {"op": "denoise", "input": "source"}}))

    made = Image.open(io.BytesIO(api.download(job, "it")))
    assert made.n_frames == 3
    for at in range(3):
        made.seek(at)
        assert decibels(saved(made.convert("RGB"), "PNG"), photo(240, 160)) > 29


def test_it_stands_anywhere_in_a_graph(api):
    steps = {
        "half": {"op": "resize", "input": "source", "width": 120},
        "clean": {"op": "denoise", "input": "half", "noise": "any"},
        "turned": {"op": "rotate", "input": "clean", "degrees": 90},
        "twice": {"op": "denoise", "input": "turned", "strength": 0.5},
        "web": {"op": "avif", "input": "twice"},
        "plain": {"op": "jpg", "input": "half"},
        "facts": {"op": "metadata", "input": "clean"},
        "all": {"op": "zip", "input": ["clean", "web", "plain"]},
    }

    answer = api.post("it.png", png(noisy(30, seed=5)), steps=json.dumps(steps))
    assert answer.status_code == 422, "metadata of pixels is refused for denoise as for any other"
    del steps["facts"]
    job = api.wait(api.submit("it.png", png(noisy(30, seed=5)), steps))

    assert job["state"] == "succeeded", job
    assert Image.open(io.BytesIO(api.download(job, "web"))).size == (80, 120)


def test_a_picture_that_cannot_be_decoded_fails_its_denoising_and_what_reads_it(api):
    data = png(noisy(20))

    job = api.wait(api.submit("cut.png", data[: len(data) // 2], CHAIN))

    assert job["state"] == "failed"
    assert job["steps"]["clean"]["error"]["code"] == "corrupt_image"
    assert job["steps"]["web"]["state"] == "skipped"


def test_what_no_denoiser_can_do_is_refused_at_once(api):
    steps = {"it": {"op": "denoise", "input": "source", "strength": 1.5, "noise": "some", "keep": True}}

    answer = api.post("it.png", png(noisy(20)), steps=json.dumps(steps))

    pointers = {fault["pointer"] for fault in answer.json()["errors"]}
    assert pointers == {"/steps/it/strength", "/steps/it/noise", "/steps/it/keep"}
