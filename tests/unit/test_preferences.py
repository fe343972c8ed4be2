"""The header `Prefer: wait=N`."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from pixtools.errors import BadRequest
from serve.preferences import preference_applied, wait_seconds


def headers(*values: str) -> Headers:
    return Headers(raw=[(b"prefer", value.encode()) for value in values])


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
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
        ([""], None),
    ],
)
def test_the_seconds_are_read(values, seconds):
    assert wait_seconds(headers(*values)) == seconds


@pytest.mark.parametrize(
    "value", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=1 2", "wait=1234567890", "wait=١"]
)
def test_anything_but_whole_seconds_is_an_error(value):
    with pytest.raises(BadRequest, match="whole number of seconds"):
        wait_seconds(Headers({"prefer": value.encode().decode("latin-1")}))


def test_the_answer_says_how_long_the_service_waits():
    assert preference_applied(60) == {"Preference-Applied": "wait=60"}
