"""The search for a quality: few tries, an answer that is right where the curve has one, and never a guess twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixtools.imaging.quality_search import HIGHEST, LOWEST, POINTS, Curve, search
from pixtools.operations import OPERATIONS

CODECS = ("jpg", "webp", "avif")
NOISE = st.lists(st.floats(-0.3, 0.3), min_size=HIGHEST + 1, max_size=HIGHEST + 1)
QUALITIES = st.integers(LOWEST, HIGHEST)


@given(codec=st.sampled_from(CODECS), shift=st.floats(-12, 12), slope=st.floats(0.6, 1.6), noise=NOISE, data=st.data())
def test_a_picture_like_others_gets_its_target_in_six_tries(codec, shift, slope, noise, data):
    usual = OPERATIONS[codec].scores

    def measure(quality: int) -> float:
        return 75 + shift + slope * (usual.at(quality) - 75) + noise[quality]

    target = data.draw(st.floats(30, 95))
    tried = {}
    search(measure, usual, (target - 0.4, target + 0.4), tried, 6)

    best = min(abs(measure(quality) - target) for quality in range(LOWEST, HIGHEST + 1))
    # Where the codec's own steps are wider than that, the nearest two are what there is.
    assert min(abs(value - target) for value in tried.values()) <= max(1.0, best + 0.6)


@given(st.lists(st.floats(0.001, 8), min_size=HIGHEST, max_size=HIGHEST), st.floats(-60, 95), NOISE, st.floats(30, 95))
def test_any_rising_curve_is_searched_in_six_tries_within_its_bounds(steps, start, noise, target):
    values = [start + sum(steps[:quality]) + noise[quality] for quality in range(HIGHEST + 1)]
    calls = []

    def measure(quality: int) -> float:
        calls.append(quality)
        return values[quality]

    search(measure, OPERATIONS["jpg"].scores, (target - 0.4, target + 0.4), {}, 6)

    assert 1 <= len(calls) <= 6
    assert len(set(calls)) == len(calls)
    assert all(LOWEST <= quality <= HIGHEST for quality in calls)


@given(
    codec=st.sampled_from(CODECS), shift=st.floats(-2, 3), slope=st.floats(0.6, 1.6), start=st.integers(30, 100),
    share=st.floats(0.2, 0.95),
)  # fmt: skip
def test_a_size_is_kept_and_used_where_the_qualities_are_close_enough(codec, shift, slope, start, share):
    usual = OPERATIONS[codec].sizes

    def measure(quality: int) -> float:
        return shift + slope * usual.at(quality)

    most = measure(start) + math.log(share)
    tried = {start: measure(start)}
    search(measure, usual, (most + math.log(0.95), most), tried, 6, start)

    within = [quality for quality in range(LOWEST, start + 1) if measure(quality) <= most]
    if within:
        found = max(quality for quality, value in tried.items() if value <= most)
        assert measure(found) >= most + math.log(0.95) or found == max(within)


def test_a_search_ends_with_what_lies_in_reach():
    tried = {}

    search(float, Curve(POINTS), (49.6, 50.4), tried, 6)

    assert tried == {50: 50.0}


@pytest.mark.parametrize(("aim", "end"), [(200, HIGHEST), (-200, LOWEST)])
def test_what_lies_out_of_reach_ends_at_the_nearest_quality(aim, end):
    tried = {}

    search(float, Curve(POINTS), (aim - 0.4, aim + 0.4), tried, 6)

    assert list(tried) == [end]


def test_a_search_goes_on_from_what_is_known():
    tried = {40: 38.0, 60: 62.0}

    search(lambda quality: quality * 1.2 - 10, Curve(POINTS), (49.6, 50.4), tried, 1)

    assert list(tried) == [40, 60, 50]


@given(QUALITIES)
def test_a_curve_read_backwards_gives_the_quality_again(quality):
    for codec in CODECS:
        for curve in (OPERATIONS[codec].scores, OPERATIONS[codec].sizes):
            assert curve.quality(curve.at(quality)) == pytest.approx(quality)
