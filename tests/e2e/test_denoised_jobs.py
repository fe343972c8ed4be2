"""Jobs with `denoise` steps are sent over HTTP. A real denoiser runs them with the weights that PixTools ships."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from images import exif, photo, saved
from PIL import Image

from pixtools.denoising.dncnn import load_shipped
from pixtools.denoising.engine import EFFORTS, load_engine
from pixtools.denoising.measured_noise import CLEAN_SIGMA

CHAIN = {"clean": {"op": "denoise", "input": "source"}, "web": {"op": "webp", "input": "clean", "lossless": True}}


def noisy(sigma: float, width: int = 240, height: int = 160, seed: int = 1) -> np.ndarray:
    """Return a photo with Gaussian noise, as uint8 (H, W, 3).

    `sigma` is the standard deviation of the noise, on the scale from 0 to 255.
    """
    scene = photo(width, height)
    return (scene + np.random.default_rng(seed).normal(0, sigma, scene.shape)).clip(0, 255).round().astype(np.uint8)


def decibels(data: bytes, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of a file, in decibels. `truth` is the picture without noise."""
    made = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
    return float(10 * np.log10(255**2 / ((made - truth) ** 2).mean()))


def png(array: np.ndarray) -> bytes:
    return saved(Image.fromarray(array), "PNG")


def test_noise_is_removed_and_the_result_has_its_strength(api):
    job = api.wait(api.submit("noisy.png", png(noisy(25)), CHAIN))

    assert job["state"] == "succeeded", job
    result = job["steps"]["clean"]["result"]
    assert result.keys() == {"sigma", "denoised", "passes", "noise", "remaining"}
    assert result["passes"] == 1
    assert result["sigma"] == pytest.approx(25, abs=4)
    assert result["denoised"]
    # White noise has the same strength at all scales. It is stronger in the three channels than in their weighted mean.
    assert result["noise"]["scale"] == [1, 2, 4]
    assert result["noise"]["luma"] == pytest.approx([16.7] * 3, rel=0.3)
    assert result["noise"]["chroma"] == pytest.approx([22.1] * 3, rel=0.3)
    assert result["remaining"]["luma"][0] < 0.3 * result["noise"]["luma"][0]
    assert decibels(png(noisy(25)), photo(240, 160)) < 21
    assert decibels(api.download(job, "clean"), photo(240, 160)) > 30
    clean, web = (np.asarray(Image.open(io.BytesIO(api.download(job, name)))) for name in ("clean", "web"))
    assert (clean == web).all()


def test_a_lower_strength_leaves_some_of_the_noise(api):
    steps = {str(part): {"op": "denoise", "input": "source", "strength": part / 10} for part in (0, 4, 10)}
    steps["grain"] = {"op": "denoise", "input": "source", "strength": 0.4, "chroma": 1}

    job = api.wait(api.submit("noisy.png", png(noisy(20, seed=2)), steps))

    none, some, grain, all_ = (decibels(api.download(job, name), photo(240, 160)) for name in ("0", "4", "grain", "10"))
    assert none + 3 < some < grain - 1 < all_ - 2
    left = [job["steps"][name]["result"]["remaining"]["chroma"][0] for name in ("4", "grain", "10")]
    assert left[0] > 2 * left[1]
    assert left[1] == pytest.approx(left[2], abs=0.5)
    assert job["steps"]["0"]["result"]["skipped"] == "strength"


def test_white_noise_has_weights_of_its_own(api):
    steps = {noise: {"op": "denoise", "input": "source", "noise": noise} for noise in ("any", "white")}

    job = api.wait(api.submit("noisy.png", png(noisy(25, 480, 320, seed=4)), steps))

    for_photos, white = (decibels(api.download(job, noise), photo(480, 320)) for noise in ("any", "white"))
    assert white > for_photos > 30


def test_a_fast_denoiser_runs_in_another_precision_and_is_nearly_as_good(api):
    steps = {effort: {"op": "denoise", "input": "source", "effort": effort} for effort in EFFORTS}

    job = api.wait(api.submit("noisy.png", png(noisy(25, 480, 320, seed=4)), steps))

    normal, fast = (api.download(job, effort) for effort in EFFORTS)
    names = {load_engine(load_shipped(), effort=effort).name for effort in EFFORTS}
    assert (normal == fast) == (len(names) == 1)  # on a CPU that has only one precision, they are equal
    assert decibels(fast, photo(480, 320)) == pytest.approx(decibels(normal, photo(480, 320)), abs=0.2)


@pytest.mark.parametrize("noise", ["any", "auto"])
def test_coarse_grain_is_removed_in_two_passes(api, noise):
    grain = np.random.default_rng(5).normal(0, 1, (160, 240, 3))
    for axis in (0, 1):  # a blur of about 1.4 pixels: three averages of three pixels
        for _ in range(3):
            grain = (grain + np.roll(grain, 1, axis) + np.roll(grain, -1, axis)) / 3
    grainy = (photo(480, 320)[:160, :240] + 20 * grain / grain.std()).round().clip(0, 255).astype(np.uint8)
    steps = {
        "two": {"op": "denoise", "input": "source", "noise": noise},
        "one": {"op": "denoise", "input": "source", "noise": "white"},
    }

    job = api.wait(api.submit("grain.png", png(grainy), steps))

    assert [job["steps"][name]["result"]["passes"] for name in ("two", "one")] == [2, 1]
    two, one = (decibels(api.download(job, name), photo(480, 320)[:160, :240]) for name in ("two", "one"))
    assert two > one + 3


def test_automatic_noise_leaves_a_clean_picture_unchanged(api):
    scene = np.asarray(Image.fromarray(photo(24, 16)).resize((480, 320), Image.Resampling.BICUBIC))

    job = api.wait(api.submit("clean.png", png(scene), {"it": {"op": "denoise", "input": "source", "noise": "auto"}}))

    result = job["steps"]["it"]["result"]
    assert (result["denoised"], result["skipped"]) == (False, "clean")
    assert result["sigma"] < CLEAN_SIGMA
    assert (np.asarray(Image.open(io.BytesIO(api.download(job, "it")))) == scene).all()


def test_a_denoised_picture_serves_later_jobs_from_its_file(api):
    """The denoised file has no GPS location.

    A step that reads the pixels of this file still gets the location of the source.
    """
    source = saved(Image.fromarray(noisy(15, seed=3)), "PNG", exif=exif())
    api.wait(api.submit("a.png", source, CHAIN))
    steps = CHAIN | {"jpg": {"op": "jpg", "input": "clean", "strip": "none", "quality": 95}}

    job = api.wait(api.submit("a.png", source, steps))

    assert [job["steps"][name]["cached"] for name in ("clean", "web", "jpg")] == [True, True, False]
    assert job["steps"]["clean"]["result"]["denoised"]
    assert decibels(api.download(job, "jpg"), photo(240, 160)) > 31
    assert Image.open(io.BytesIO(api.download(job, "jpg"))).getexif().get_ifd(0x8825), "the location is missing"
    assert not Image.open(io.BytesIO(api.download(job, "clean"))).getexif().get_ifd(0x8825)


def test_transparency_and_greyscale_are_preserved(api):
    alpha = np.linspace(0, 255, 240 * 160).reshape(160, 240, 1).astype(np.uint8)
    for mode, array in (("RGBA", np.dstack([noisy(25), alpha])), ("L", noisy(25)[:, :, 0])):
        job = api.wait(api.submit("it.png", png(array), {"it": {"op": "denoise", "input": "source"}}))
        made = Image.open(io.BytesIO(api.download(job, "it")))
        assert made.mode == mode
        assert mode == "L" or (np.asarray(made)[:, :, 3:] == alpha).all()
        if mode == "L":
            assert decibels(saved(made.convert("RGB"), "PNG"), np.repeat(photo(240, 160)[:, :, :1], 3, 2)) > 28


def test_noise_is_removed_from_a_jpeg(api):
    """A JPEG with 4:2:0 subsampling stores colours at half the width and height. So the noise is no longer white."""
    source = saved(Image.fromarray(noisy(25, seed=6)), "JPEG", quality=95, subsampling="4:2:0")

    job = api.wait(api.submit("noisy.jpg", source, {"it": {"op": "denoise", "input": "source"}}))

    assert decibels(source, photo(240, 160)) < 25
    assert decibels(api.download(job, "it"), photo(240, 160)) > 29


def test_16_bit_pixels_keep_their_depth(api):
    scene = np.linspace(0, 60_000, 200 * 100).reshape(100, 200)
    grey = (scene + np.random.default_rng(1).normal(0, 5000, scene.shape)).clip(0, 65_535).astype(np.uint16)
    steps = CHAIN | {"again": {"op": "denoise", "input": "clean", "strength": 0.1}}

    job = api.wait(api.submit("16-bit.png", png(grey), steps))

    assert job["state"] == "succeeded", job
    for name in ("clean", "again"):
        made = np.asarray(Image.open(io.BytesIO(api.download(job, name))))
        assert made.dtype == np.uint16 or made.max() > 255
        assert len(np.unique(made % 257)) > 100, "the lower bits carry no information"
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


def test_denoise_may_stand_anywhere_in_a_graph(api):
    steps = {
        "half": {"op": "resize", "input": "source", "width": 120},
        "clean": {"op": "denoise", "input": "half", "noise": "any"},
        "turned": {"op": "rotate", "input": "clean", "degrees": 90},
        "twice": {"op": "denoise", "input": "turned", "strength": 0.5},
        "web": {"op": "avif", "input": "twice"},
        "plain": {"op": "jpg", "input": "half"},
        "exif": {"op": "metadata", "input": "clean"},
        "all": {"op": "zip", "input": ["clean", "web", "plain"]},
    }

    answer = api.post("it.png", png(noisy(30, seed=5)), steps=json.dumps(steps))
    assert answer.status_code == 422, "a step `metadata` cannot read pixels"
    del steps["exif"]
    job = api.wait(api.submit("it.png", png(noisy(30, seed=5)), steps))

    assert job["state"] == "succeeded", job
    assert Image.open(io.BytesIO(api.download(job, "web"))).size == (80, 120)


def test_a_picture_that_cannot_be_decoded_fails_its_denoise_step_and_skips_the_readers(api):
    data = png(noisy(20))

    job = api.wait(api.submit("cut.png", data[: len(data) // 2], CHAIN))

    assert job["state"] == "failed"
    assert job["steps"]["clean"]["error"]["code"] == "corrupt_image"
    assert job["steps"]["web"]["state"] == "skipped"


def test_parameters_that_are_not_valid_are_refused_at_once(api):
    steps = {"it": {"op": "denoise", "input": "source", "strength": 1.5, "noise": "some", "keep": True}}

    answer = api.post("it.png", png(noisy(20)), steps=json.dumps(steps))

    pointers = {fault["pointer"] for fault in answer.json()["errors"]}
    assert pointers == {"/steps/it/strength", "/steps/it/noise", "/steps/it/keep"}
