"""The search for a quality needs few tries, finds the best quality on a rising curve, and tries no quality twice."""

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
def test_a_picture_with_a_typical_curve_reaches_its_target_in_six_tries(codec, shift, slope, noise, data):
    typical = OPERATIONS[codec].scores

    def measure(quality: int) -> float:
        return 75 + shift + slope * (typical.at(quality) - 75) + noise[quality]

    target = data.draw(st.floats(30, 95))
    tried = {}
    search(measure, typical, (target - 0.4, target + 0.4), tried, 6)

    best = min(abs(measure(quality) - target) for quality in range(LOWEST, HIGHEST + 1))
    # Scores of neighbouring qualities may differ by more than the tolerance. Then the nearest quality is enough.
    assert min(abs(value - target) for value in tried.values()) <= max(1.0, best + 0.6)


@given(st.lists(st.floats(0.001, 8), min_size=HIGHEST, max_size=HIGHEST), st.floats(-60, 95), NOISE, st.floats(30, 95))
def test_a_search_on_any_rising_curve_stays_within_the_range_and_six_tries(steps, start, noise, target):
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
def test_a_search_for_a_size_uses_at_least_95_percent_of_it_or_finds_the_highest_fitting_quality(
    codec, shift, slope, start, share
):
    typical = OPERATIONS[codec].sizes

    def measure(quality: int) -> float:
        return shift + slope * typical.at(quality)

    limit = measure(start) + math.log(share)
    tried = {start: measure(start)}
    search(measure, typical, (limit + math.log(0.95), limit), tried, 6, start)

    fitting = [quality for quality in range(LOWEST, start + 1) if measure(quality) <= limit]
    if fitting:
        found = max(quality for quality, value in tried.items() if value <= limit)
        assert measure(found) >= limit + math.log(0.95) or found == max(fitting)


def test_a_search_ends_at_the_first_accepted_value():
    tried = {}

    search(float, Curve(POINTS), (49.6, 50.4), tried, 6)

    assert tried == {50: 50.0}


@pytest.mark.parametrize(("target", "end"), [(200, HIGHEST), (-200, LOWEST)])
def test_a_search_for_a_value_out_of_reach_ends_at_the_nearest_quality(target, end):
    tried = {}

    search(float, Curve(POINTS), (target - 0.4, target + 0.4), tried, 6)

    assert list(tried) == [end]


def test_a_search_starts_from_earlier_results():
    tried = {40: 38.0, 60: 62.0}

    search(lambda quality: quality * 1.2 - 10, Curve(POINTS), (49.6, 50.4), tried, 1)

    assert list(tried) == [40, 60, 50]


@given(QUALITIES)
def test_the_quality_of_a_curves_value_is_the_original_quality(quality):
    for codec in CODECS:
        for curve in (OPERATIONS[codec].scores, OPERATIONS[codec].sizes):
            assert curve.quality(curve.at(quality)) == pytest.approx(quality)
