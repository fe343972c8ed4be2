"""Goals: a score is reached, a size is kept, and the facts say what came of it."""

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

LOSSY = ("jpg", "webp", "avif")
ANY = 10**9


def encoded(name: str, source_bytes: int = ANY, picture: Picture | None = None, **params: object) -> Encoded:
    operation = OPERATIONS[name]
    return operation.encode(picture or scene(), operation.params(**params), source_bytes)


def scene() -> Picture:
    """A photo with grain, which no codec gets right at once."""
    grain = np.random.default_rng(3).normal(0, 6, (240, 320, 1))
    return Picture.still(Image.fromarray((photo(320, 240) + grain).clip(0, 255).astype(np.uint8)))


def score_of_library(result: Encoded) -> float:
    return compute_ssimulacra2(io.BytesIO(saved(result.picture.image.convert("RGB"), "PPM")), io.BytesIO(result.data))


@pytest.mark.parametrize("name", LOSSY)
def test_a_plain_encode_has_no_facts(name):
    assert encoded(name, quality=50).facts is None


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("target", [60, 75])
def test_a_target_is_reached_within_one_point_in_six_encodes(name, target):
    result = encoded(name, target=target)

    assert result.facts.keys() == {"quality", "score", "target", "reached", "encodes"}
    assert result.facts["reached"] is True
    assert result.facts["encodes"] <= 6
    assert result.facts["score"] == pytest.approx(target, abs=1)
    assert score_of_library(result) == pytest.approx(result.facts["score"], abs=0.06)


@pytest.mark.parametrize("name", ["jpg", "avif"])
def test_between_two_qualities_lies_another_file(name):
    operation = OPERATIONS[name]
    low, high = (operation.params(quality=quality) for quality in (72, 73))

    files = {operation.run(scene(), low), operation.between(scene(), low), operation.run(scene(), high)}

    assert len(files) == 3 if name == "jpg" else len(files) >= 2


@pytest.mark.parametrize("name", LOSSY)
def test_the_file_is_that_of_the_quality_which_the_facts_name(name):
    result = encoded(name, target=60)

    operation, quality = OPERATIONS[name], result.facts["quality"]
    make = operation.run if quality == int(quality) else operation.between
    assert result.data == make(scene(), operation.params(quality=int(quality)))


def test_a_target_beyond_the_codec_gives_the_best_and_says_that_it_was_not_reached():
    checks = np.indices((64, 64)).sum(axis=0) % 2
    picture = Picture.still(Image.fromarray((checks[..., None] * np.array([255, 0, 0])).astype(np.uint8)))

    result = encoded("webp", picture=picture, target=95)

    assert result.facts["reached"] is False
    assert result.facts["quality"] == 100
    assert result.data == encoded("webp", picture=picture, quality=100).data


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_a_file_keeps_below_the_bytes_that_were_allowed_and_uses_them(name, share):
    plain = len(encoded(name).data)
    most = int(plain * share)

    result = encoded(name, max_bytes=most)

    assert len(result.data) <= most
    assert result.facts["lowered_for"] == "max_bytes"
    assert result.facts["encodes"] <= 7
    # The next quality is too large, or hardly anything is left.
    following = len(encoded(name, quality=result.facts["quality"] + 1).data)
    assert following > most or len(result.data) > 0.94 * most


@pytest.mark.parametrize("name", LOSSY)
def test_bytes_to_spare_change_nothing(name):
    result = encoded(name, max_bytes=10**6)

    assert result.data == encoded(name, quality=OPERATIONS[name].params().quality).data
    assert result.facts == {"quality": OPERATIONS[name].params().quality, "encodes": 1}


def test_a_quality_beside_a_cap_is_the_most_that_is_used():
    assert encoded("jpg", max_bytes=10**6, quality=40).facts == {"quality": 40, "encodes": 1}


def test_a_file_is_kept_smaller_than_its_source():
    source = len(encoded("jpg", quality=30).data)

    result = encoded("webp", source, quality=95, keep_smaller=True)

    assert len(result.data) <= source
    assert result.facts["lowered_for"] == "keep_smaller"


def test_of_two_caps_the_lower_counts():
    result = encoded("jpg", 6_000, max_bytes=5_000, keep_smaller=True)

    assert len(result.data) <= 5_000
    assert result.facts["lowered_for"] == "max_bytes"


def test_a_cap_wins_over_a_target_and_the_facts_say_what_is_left_of_it():
    aimed = encoded("jpg", target=80)
    most = len(aimed.data) // 2

    result = encoded("jpg", target=80, max_bytes=most)

    assert len(result.data) <= most
    assert result.facts["lowered_for"] == "max_bytes"
    assert result.facts["reached"] is False
    assert result.facts["score"] < 79
    assert result.facts["score"] == pytest.approx(score_of_library(result), abs=0.06)


def test_a_target_that_fits_its_cap_is_reached():
    aimed = encoded("avif", target=60)

    both = encoded("avif", target=60, max_bytes=len(aimed.data))

    assert (both.data, both.facts) == (aimed.data, aimed.facts)


@pytest.mark.parametrize("name", LOSSY)
def test_a_size_that_no_quality_reaches_is_an_error_that_says_what_was_reached(name):
    least = len(encoded(name, quality=1).data)

    with pytest.raises(GoalOutOfReach, match=rf"lowest quality .* {least:,} bytes, and max_bytes allows 100\. Resize"):
        encoded(name, max_bytes=100)


def test_a_source_that_cannot_be_undercut_is_named_as_such():
    with pytest.raises(GoalOutOfReach, match="the source has 50"):
        encoded("avif", 50, keep_smaller=True)


def test_the_same_goal_gives_the_same_file():
    assert encoded("avif", target=65).data == encoded("avif", target=65).data


def test_transparency_takes_part_in_the_score():
    picture = scene().map(lambda frame: frame.convert("RGBA"))
    picture.image.putalpha(Image.linear_gradient("L").resize(picture.size))

    assert encoded("webp", picture=picture, target=60).facts["score"] == pytest.approx(60, abs=1)


@pytest.mark.parametrize("name", LOSSY)
def test_a_quality_beside_a_target_is_refused_with_the_remedy(name):
    with pytest.raises(ValidationError, match="leave out quality or target"):
        OPERATIONS[name].params.model_validate({"quality": OPERATIONS[name].params().quality, "target": 70})


@pytest.mark.parametrize("goal", [{"target": 70}, {"max_bytes": 1_000}, {"keep_smaller": True}])
def test_a_lossless_webp_has_no_goal(goal):
    with pytest.raises(ValidationError, match="leave out lossless"):
        OPERATIONS["webp"].params.model_validate({"lossless": True, **goal})
