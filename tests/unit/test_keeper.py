"""The keeper starts servers again, with growing pauses, and gives up at last."""

from __future__ import annotations

import pytest

from pixtools.local import keeper as keeper_module
from pixtools.local.keeper import Keeper, Kept
from pixtools.local.local_error import LocalError


class Done(Exception):
    """Ends the watch, which has no end of its own."""


class Clock:
    """A clock that moves when somebody sleeps. It ends the test after `until` seconds."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self.until = until

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.until:
            raise Done


class Server:
    """A server that fails at the given times, and is stopped before each new start."""

    name = "postgres"

    def __init__(self, clock: Clock, fails_at: list[float], *, never_starts: bool = False) -> None:
        self.clock, self.fails_at, self.never_starts = clock, fails_at, never_starts
        self.began: list[float] = []
        self.stopped = 0
        self.then = 0
        self.tidied_at: list[float] = []

    def check(self) -> None:
        if self.fails_at and self.clock.now >= self.fails_at[0]:
            raise LocalError("postgres ended by itself (code -9).")

    def wait(self) -> None:
        if self.never_starts:
            raise LocalError("postgres did not answer within 60 s.")

    def stop(self) -> None:
        self.stopped += 1

    def again(self) -> Server:
        self.began.append(self.clock.now)
        if not self.never_starts:
            self.fails_at.pop(0)
        return self

    def tidy(self) -> None:
        self.tidied_at.append(self.clock.now)

    def count(self) -> None:
        self.then += 1


def watch(server: Server, clock: Clock) -> list[str]:
    """Watch a server until the clock ends the test. Return what was said."""
    said: list[str] = []
    with pytest.raises(Done):
        Keeper([Kept(server, server.again, server.count)], said.append, clock, clock.sleep).watch()
    return said


def test_a_server_that_runs_is_left_alone():
    server = Server(clock := Clock(60), [])

    assert watch(server, clock) == []
    assert (server.began, server.stopped) == ([], 0)


def test_a_server_is_tidied_every_minute():
    server = Server(clock := Clock(200), [])
    watch(server, clock)

    assert server.tidied_at == [60, 120, 180]


def test_a_server_that_has_ended_is_started_again_at_once():
    server = Server(clock := Clock(60), [10])
    said = watch(server, clock)

    assert (server.began, server.stopped, server.then) == ([10], 1, 1)
    assert said == [
        "postgres ended by itself (code -9).\nStarting postgres again.",
        "postgres works again after 0.0 s.",
    ]


def test_the_pauses_grow_with_each_failure():
    server = Server(clock := Clock(100), [10, 10, 10, 10, 10])
    said = watch(server, clock)

    pauses = [after - before for before, after in zip([10, *server.began], server.began, strict=False)]
    assert pauses == pytest.approx([0, 1, 2, 5, 10], abs=0.6)
    assert said[2].endswith("Starting postgres again in 1 s.")


def test_after_six_failures_in_ten_minutes_the_keeper_gives_up():
    server = Server(clock := Clock(700), [0], never_starts=True)
    keeper = Keeper([Kept(server, server.again)], print, clock, clock.sleep)
    with pytest.raises(LocalError, match=r"(?s)postgres ended by itself.*This has happened 6 times within 10 minutes"):
        keeper.watch()

    assert len(server.began) == 5
    assert server.then == 0


def test_old_failures_do_not_count():
    every_three_minutes = [180.0 * each for each in range(1, 30)]
    server = Server(clock := Clock(180 * 20), every_three_minutes)
    watch(server, clock)

    assert len(server.began) >= 15


def test_a_failed_start_is_said_and_the_rest_of_the_server_is_stopped():
    server = Server(clock := Clock(3), [0], never_starts=True)
    said = watch(server, clock)

    assert "This start failed: postgres did not answer within 60 s." in said
    assert server.stopped >= 2


def test_every_server_gets_its_own_attempts(monkeypatch):
    monkeypatch.setattr(keeper_module, "_PAUSES_S", (0.0,))
    clock = Clock(10)
    one, two = Server(clock, [1]), Server(clock, [1])
    with pytest.raises(Done):
        Keeper([Kept(each, each.again) for each in (one, two)], print, clock, clock.sleep).watch()

    assert (len(one.began), len(two.began)) == (1, 1)
