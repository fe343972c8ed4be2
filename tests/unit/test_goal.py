"""Lossy encoders reach a target score and stay within a byte limit. The result reports how."""

from __future__ import annotations

import io

import numpy as np
import pytest
from images import photo, saved
from PIL import Image
from pydantic import ValidationError
from ssimulacra2 import compute_ssimulacra2

from pixtools.errors import GoalOutOfReach
from pixtools.imaging.picture import Picture
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Encoded

pytestmark = pytest.mark.heavy

LOSSY = ("jpg", "webp", "avif")
LARGE_SOURCE = 10**9  # in bytes, so large that `keep_smaller` has no effect


def encoded(name: str, source_bytes: int = LARGE_SOURCE, picture: Picture | None = None, **params: object) -> Encoded:
    operation = OPERATIONS[name]
    return operation.encode(picture or scene(), operation.params(**params), source_bytes)


def scene() -> Picture:
    """Return a photo with grain. To reach a score for this photo, every codec has to try more than one quality."""
    grain = np.random.default_rng(3).normal(0, 6, (240, 320, 1))
    return Picture.still(Image.fromarray((photo(320, 240) + grain).clip(0, 255).astype(np.uint8)))


def library_score(result: Encoded) -> float:
    return compute_ssimulacra2(io.BytesIO(saved(result.picture.image.convert("RGB"), "PPM")), io.BytesIO(result.data))


@pytest.mark.parametrize("name", LOSSY)
def test_an_encode_without_goals_has_no_result(name):
    assert encoded(name, quality=50).result is None


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("target", [60, 75])
def test_a_target_is_reached_within_one_point_in_six_encodes(name, target):
    result = encoded(name, target=target)

    assert result.result.keys() == {"quality", "score", "target", "reached", "encodes"}
    assert result.result["reached"] is True
    assert result.result["encodes"] <= 6
    assert result.result["score"] == pytest.approx(target, abs=1)
    assert library_score(result) == pytest.approx(result.result["score"], abs=0.06)


@pytest.mark.parametrize("name", ["jpg", "avif"])
def test_a_half_step_gives_another_file_than_the_qualities_beside_it(name):
    operation = OPERATIONS[name]
    low, high = (operation.params(quality=quality) for quality in (72, 73))

    files = {operation.run(scene(), low), operation.half_step(scene(), low), operation.run(scene(), high)}

    assert len(files) == 3 if name == "jpg" else len(files) >= 2


@pytest.mark.parametrize("name", LOSSY)
def test_the_file_is_the_one_of_the_quality_in_the_result(name):
    result = encoded(name, target=60)

    operation, quality = OPERATIONS[name], result.result["quality"]
    encode = operation.run if quality == int(quality) else operation.half_step
    assert result.data == encode(scene(), operation.params(quality=int(quality)))


def test_a_target_beyond_the_codec_gives_the_best_file_and_reports_that_it_is_not_reached():
    checks = np.indices((64, 64)).sum(axis=0) % 2
    picture = Picture.still(Image.fromarray((checks[..., None] * np.array([255, 0, 0])).astype(np.uint8)))

    result = encoded("webp", picture=picture, target=95)

    assert result.result["reached"] is False
    assert result.result["quality"] == 100
    assert result.data == encoded("webp", picture=picture, quality=100).data


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_a_file_fits_its_byte_limit_and_nearly_fills_it(name, share):
    plain = len(encoded(name).data)
    limit = int(plain * share)

    result = encoded(name, max_bytes=limit)

    assert len(result.data) <= limit
    assert result.result["lowered_for"] == "max_bytes"
    assert result.result["encodes"] <= 7
    # Either the next quality exceeds the limit, or this file fills more than 94 % of the limit.
    next_bytes = len(encoded(name, quality=result.result["quality"] + 1).data)
    assert next_bytes > limit or len(result.data) > 0.94 * limit


@pytest.mark.parametrize("name", LOSSY)
def test_a_byte_limit_that_is_not_reached_changes_nothing(name):
    result = encoded(name, max_bytes=10**6)

    assert result.data == encoded(name, quality=OPERATIONS[name].params().quality).data
    assert result.result == {"quality": OPERATIONS[name].params().quality, "encodes": 1}


def test_a_quality_beside_a_byte_limit_is_the_highest_that_is_tried():
    assert encoded("jpg", max_bytes=10**6, quality=40).result == {"quality": 40, "encodes": 1}


def test_a_file_is_kept_smaller_than_its_source():
    source = len(encoded("jpg", quality=30).data)

    result = encoded("webp", source, quality=95, keep_smaller=True)

    assert len(result.data) <= source
    assert result.result["lowered_for"] == "keep_smaller"


def test_the_lower_of_two_byte_limits_counts():
    result = encoded("jpg", 6_000, max_bytes=5_000, keep_smaller=True)

    assert len(result.data) <= 5_000
    assert result.result["lowered_for"] == "max_bytes"


def test_a_byte_limit_takes_precedence_over_a_target_and_the_result_reports_the_score():
    unlimited = encoded("jpg", target=80)
    limit = len(unlimited.data) // 2

    result = encoded("jpg", target=80, max_bytes=limit)

    assert len(result.data) <= limit
    assert result.result["lowered_for"] == "max_bytes"
    assert result.result["reached"] is False
    assert result.result["score"] < 79
    assert result.result["score"] == pytest.approx(library_score(result), abs=0.06)


def test_a_target_within_its_byte_limit_is_reached():
    unlimited = encoded("avif", target=60)

    limited = encoded("avif", target=60, max_bytes=len(unlimited.data))

    assert (limited.data, limited.result) == (unlimited.data, unlimited.result)


@pytest.mark.parametrize("name", LOSSY)
def test_a_byte_limit_that_no_quality_fits_is_an_error_with_the_smallest_size(name):
    smallest = len(encoded(name, quality=1).data)

    with pytest.raises(
        GoalOutOfReach, match=rf"lowest quality, .* {smallest:,} bytes, but `max_bytes` allows 100\. Resize"
    ):
        encoded(name, max_bytes=100)


def test_a_source_that_no_quality_fits_is_an_error_that_names_its_size():
    with pytest.raises(GoalOutOfReach, match="the source has 50"):
        encoded("avif", 50, keep_smaller=True)


def test_the_same_goal_gives_the_same_file():
    assert encoded("avif", target=65).data == encoded("avif", target=65).data


def test_a_target_is_reached_for_a_picture_with_transparency():
    picture = scene().map(lambda frame: frame.convert("RGBA"))
    picture.image.putalpha(Image.linear_gradient("L").resize(picture.size))

    assert encoded("webp", picture=picture, target=60).result["score"] == pytest.approx(60, abs=1)


@pytest.mark.parametrize("name", LOSSY)
def test_a_quality_beside_a_target_is_rejected_with_the_remedy(name):
    with pytest.raises(ValidationError, match="leave out `quality` or `target`"):
        OPERATIONS[name].params.model_validate({"quality": OPERATIONS[name].params().quality, "target": 70})


@pytest.mark.parametrize("goal", [{"target": 70}, {"max_bytes": 1_000}, {"keep_smaller": True}])
def test_goals_of_a_lossless_webp_are_rejected(goal):
    with pytest.raises(ValidationError, match="leave out `lossless`"):
        OPERATIONS["webp"].params.model_validate({"lossless": True, **goal})
