"""Circuits of destinations, shared by couriers through real Redis."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from pixtools.local.ports import free_port
from pixtools.redis import circuits as circuits_module
from pixtools.redis.circuits import FAILURES_TO_OPEN, OPEN_S, Admission, Circuits

PLACE = "https://receiver.example:443"
OTHER = "https://other.example:443"


@pytest.fixture
def valkey(settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def two(settings, valkey):  # noqa: ARG001 (empties Redis)
    """The circuits as two couriers see them."""
    both = [Circuits(settings), Circuits(settings)]
    yield both
    for each in both:
        each.close()


@pytest.fixture
def without_redis(settings):
    alone = Circuits(
        settings.model_copy(update={"redis_url": type(settings.redis_url)(f"redis://127.0.0.1:{free_port()}")})
    )
    yield alone
    alone.close()


@pytest.fixture
def minute_later(monkeypatch):
    """A function that lets circuits that are open now take a probe."""
    return lambda: monkeypatch.setattr(circuits_module, "OPEN_S", 0.0)


def admit(circuits: Circuits, place: str) -> Admission:
    (admission,) = circuits.admit([place])
    return admission


def fail(circuits: Circuits, times: int, place: str = PLACE) -> None:
    for _ in range(times):
        circuits.report(place, Admission(is_allowed=True), failed=True)


def open_now(circuits: Circuits) -> None:
    fail(circuits, FAILURES_TO_OPEN)
    assert not admit(circuits, PLACE).is_allowed


def end_opening(client: redis.Redis) -> None:
    """Let the minute of every open circuit pass."""
    for name in client.keys("pixtools:circuit:*"):
        client.hset(name, "opened_at", str(time.time() - OPEN_S - 1))


def test_five_failures_in_a_row_open_the_circuit_for_all_couriers(two):
    fail(two[0], 3)
    fail(two[1], 1)
    assert admit(two[0], PLACE).is_allowed
    fail(two[1], 1)

    for each in two:
        admission = admit(each, PLACE)
        assert not admission.is_allowed
        assert 50 < admission.wait_s <= OPEN_S
        assert admit(each, OTHER).is_allowed


def test_a_success_starts_the_count_again(two):
    fail(two[0], FAILURES_TO_OPEN - 1)
    two[1].report(PLACE, admit(two[1], PLACE), failed=False)
    fail(two[0], FAILURES_TO_OPEN - 1)

    assert admit(two[0], PLACE).is_allowed


def test_after_a_minute_one_probe_goes_out_over_all_couriers(two, valkey):
    open_now(two[0])
    end_opening(valkey)
    with ThreadPoolExecutor(2) as threads:
        admissions = list(threads.map(lambda each: [admit(each, PLACE) for _ in range(20)], two))

    assert sum(each.is_allowed for found in admissions for each in found) == 1


@pytest.mark.parametrize("failed", [True, False])
def test_the_probe_decides(two, valkey, failed):
    open_now(two[0])
    end_opening(valkey)
    probe = admit(two[1], PLACE)
    two[1].report(PLACE, probe, failed=failed)

    admission = admit(two[0], PLACE)
    assert admission.is_allowed is not failed
    assert admission.probe is None
    assert (admission.wait_s > 50) is failed


def test_a_probe_that_made_no_request_decides_nothing(two, valkey):
    open_now(two[0])
    end_opening(valkey)
    two[0].report(PLACE, admit(two[0], PLACE), failed=None)

    assert two[1].statuses([PLACE])[PLACE].state == "open"
    assert admit(two[1], PLACE).probe is not None


def test_a_probe_whose_courier_died_is_replaced(two, valkey):
    open_now(two[0])
    end_opening(valkey)
    assert admit(two[0], PLACE).is_allowed
    assert not admit(two[1], PLACE).is_allowed
    (name,) = valkey.keys("pixtools:probe:*")
    assert 15_000 < valkey.pttl(name) <= 20_000
    valkey.delete(name)

    assert admit(two[1], PLACE).is_allowed


def test_the_status_says_when_a_probe_may_go_out(two):
    open_now(two[0])
    found = two[1].statuses([PLACE, OTHER])

    assert (found[PLACE].state, found[PLACE].failures) == ("open", 5)
    assert 50 < found[PLACE].retry_at.timestamp() - time.time() <= OPEN_S
    assert (found[OTHER].state, found[OTHER].failures, found[OTHER].retry_at) == ("closed", 0, None)


def test_a_redis_that_lost_everything_has_only_closed_circuits(two, valkey):
    open_now(two[0])
    valkey.flushall()

    assert admit(two[0], PLACE).is_allowed
    open_now(two[0])


def test_redis_does_not_reveal_receivers(two, valkey):
    open_now(two[0])

    assert not [name for name in valkey.scan_iter() if "receiver" in name]
    assert all(valkey.ttl(name) > 0 for name in valkey.scan_iter())


def test_without_redis_each_courier_counts_for_itself(without_redis, minute_later):
    open_now(without_redis)
    assert admit(without_redis, OTHER).is_allowed
    minute_later()
    probe = admit(without_redis, PLACE)
    assert probe.is_allowed
    assert not admit(without_redis, PLACE).is_allowed
    without_redis.report(PLACE, probe, failed=False)
    assert admit(without_redis, PLACE).is_allowed


def test_without_redis_a_courier_is_not_slowed_down(without_redis):
    began = time.monotonic()
    for number in range(200):
        admit(without_redis, f"https://{number}.example:443")

    assert time.monotonic() - began < 10


def test_destinations_that_work_take_no_memory(two):
    for number in range(1_000):
        place = f"https://{number}.example:443"
        two[0].report(place, admit(two[0], place), failed=False)

    assert len(two[0]._breakers) < 10
