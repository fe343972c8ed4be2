"""The header `Prefer: wait=N`."""

from __future__ import annotations

import time

import pytest

from serve.preferences import preference_applied, wait_seconds


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (['wait="10"'], 10),
        (["wait=0"], 0),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["wait=999999999"], 60),
        (["Wait = 5"], 5),
        (["respond-async, wait=7"], 7),
        (["respond-async", "wait=8"], 8),
        (["wait=9; strict"], 9),
        (["wait=1, wait=2"], 1),
        (["respond-async"], None),
        (["waiting=3"], None),
        (['foo="a, wait=50"'], None),
        (['foo; x="a,wait=50", wait=6'], 6),
        ([""], None),
        *(
            ([value], None)
            for value in ("wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=1 2", "wait=1234567890", "wait=١")
        ),
    ],
)
def test_the_seconds_are_read_and_the_rest_is_ignored(values, seconds):
    assert wait_seconds(values) == seconds


@pytest.mark.parametrize("middle", [" ", '"', "\\", ",", ";", "=", "wait=", '"\\'])
def test_a_long_header_costs_little(middle):
    began = time.process_time()
    wait_seconds([f"wait=a{middle * 30_000}b"])
    assert time.process_time() - began < 2


def test_the_answer_says_how_long_the_service_waits():
    assert preference_applied(60) == {"Preference-Applied": "wait=60"}
