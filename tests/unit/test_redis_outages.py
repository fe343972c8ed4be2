"""The log states the reason of a Redis outage, at most once every 30 seconds."""

from __future__ import annotations

import pytest
import redis

from pixtools.redis.client import RedisOutageLog


class Clock:
    """A clock that stands still until the test moves it forward."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_outage_is_logged_at_most_every_30_seconds(clock, caplog):
    outages = RedisOutageLog(clock)
    for _ in range(61):
        outages.failed(redis.ConnectionError("Connection refused."), "publishing a hint")
        clock.seconds += 1

    assert caplog.messages == ["redis does not answer: doing=publishing a hint reason=Connection refused."] * 3


def test_a_timeout_says_how_long_the_call_waited(clock, caplog):
    RedisOutageLog(clock).failed(TimeoutError(), "reserving an idempotency key")

    assert caplog.messages == [
        "redis does not answer: doing=reserving an idempotency key reason=no response within 1 s"
    ]


def test_a_wrong_password_can_be_told_from_a_server_that_is_down(clock, caplog):
    error = redis.AuthenticationError("invalid username-password pair or user is disabled.")

    RedisOutageLog(clock).failed(error, "publishing a hint")

    assert "reason=invalid username-password pair" in caplog.text
