"""Registered receivers of webhooks: their changes, their tests, and what happens to their deliveries."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from jobs import ANN, BOB, claim, finish, new_job, submit
from webhooks import BROKEN, GONE, URL, attempted, claim_all, delivery_states, listed, registered

from pixtools.database import outbox
from pixtools.database.endpoint_store import MAX_ENDPOINTS
from pixtools.errors import NotFound, TooManyEndpoints
from pixtools.states import DeliveryState
from pixtools.webhooks.events import Event


@pytest.fixture
def end_job(store):
    def end() -> None:
        submit(store, new_job())
        finish(store, claim(store), "a", settle=True)

    return end


def test_an_endpoint_can_be_read_and_listed_by_its_owner(endpoints):
    first, second = registered(endpoints), registered(endpoints, description="mine")
    registered(endpoints, BOB)

    assert endpoints.get(ANN, first.id) == first
    assert endpoints.list_endpoints(ANN) == [second, first]
    assert (second.description, second.url, second.enabled, second.events[0]) == (
        "mine",
        URL,
        True,
        Event.JOB_SUCCEEDED,
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda endpoints, each: endpoints.get(ANN, each),
        lambda endpoints, each: endpoints.change(ANN, each, {"description": "x"}),
        lambda endpoints, each: endpoints.change(ANN, each, {}),
        lambda endpoints, each: endpoints.delete(ANN, each),
        lambda endpoints, each: endpoints.rotate(ANN, each, b"x", timedelta(1)),
        lambda endpoints, each: endpoints.test(ANN, each),
    ],
    ids=["get", "change", "no change", "delete", "rotate", "test"],
)
def test_another_owner_cannot_reach_an_endpoint(endpoints, deliveries, call):
    endpoint = registered(endpoints, BOB)
    for unreachable in (endpoint.id, uuid.uuid4()):
        with pytest.raises(NotFound):
            call(endpoints, unreachable)

    assert endpoints.get(BOB, endpoint.id) == endpoint
    assert listed(deliveries) == []


def test_an_owner_has_a_limited_number_of_endpoints(endpoints):
    for _ in range(MAX_ENDPOINTS):
        registered(endpoints)
    registered(endpoints, BOB)

    with pytest.raises(TooManyEndpoints):
        registered(endpoints)


def test_a_change_sets_only_the_given_fields(endpoints):
    endpoint = registered(endpoints, description="old", include_urls=True)
    changed = endpoints.change(ANN, endpoint.id, {"description": "new"})

    assert (changed.description, changed.include_urls, changed.url) == ("new", True, endpoint.url)


NEW = "http://new.example:8080/x"


def receivers_of(deliveries) -> set[tuple[str, str]]:
    return {(each.url, each.destination) for each in listed(deliveries)}


def test_deliveries_that_have_not_ended_go_to_the_new_url(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    end_job()
    (claimed,) = claim_all(deliveries, limit=1)
    endpoints.change(ANN, endpoint.id, {"url": NEW})

    assert claimed.record.url == URL
    assert receivers_of(deliveries) == {(NEW, "http://new.example:8080")}
    deliveries.record([attempted(claimed, BROKEN)])
    assert receivers_of(deliveries) == {(NEW, "http://new.example:8080")}


def test_a_replay_goes_to_the_new_url(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed)])
    endpoints.change(ANN, endpoint.id, {"url": NEW})
    assert listed(deliveries)[0].url == URL

    deliveries.replay(ANN, claimed.record.id)
    assert receivers_of(deliveries) == {(NEW, "http://new.example:8080")}


def test_a_410_of_the_old_url_does_not_disable_the_endpoint(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    (claimed,) = claim_all(deliveries)
    endpoints.change(ANN, endpoint.id, {"url": NEW})

    assert deliveries.record([attempted(claimed, GONE)]) == [DeliveryState.WAITING]
    assert endpoints.get(ANN, endpoint.id).enabled


def test_an_endpoint_that_is_disabled_while_an_attempt_runs_gets_no_further_attempt(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    (claimed,) = claim_all(deliveries)
    endpoints.change(ANN, endpoint.id, {"enabled": False})
    deliveries.postpone(claimed.record.id, claimed.record.attempt, timedelta())
    assert delivery_states(deliveries) == [DeliveryState.WAITING]
    deliveries.rescue()
    assert delivery_states(deliveries) == [DeliveryState.HELD]


def test_an_event_and_a_new_url_do_not_pass_each_other(endpoints, deliveries, pool):
    endpoint = registered(endpoints)
    with ThreadPoolExecutor(1) as thread:
        with pool.transaction() as connection:
            found = outbox._endpoints(connection, Event.JOB_SUCCEEDED, [ANN])
            assert found[ANN] == [(endpoint.id, URL)]
            change = thread.submit(endpoints.change, ANN, endpoint.id, {"url": NEW})
            time.sleep(0.3)
            assert not change.done()
            outbox.insert_deliveries(connection, [outbox.delivery_of_test(ANN, endpoint.id, URL)])
        change.result(10)
    assert receivers_of(deliveries) == {(NEW, "http://new.example:8080")}


def test_a_disabled_endpoint_holds_its_deliveries(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    endpoints.change(ANN, endpoint.id, {"enabled": False})
    end_job()

    assert delivery_states(deliveries) == [DeliveryState.HELD]
    assert claim_all(deliveries) == []
    endpoints.change(ANN, endpoint.id, {"enabled": True})
    assert len(claim_all(deliveries)) == 1


def test_a_deleted_endpoint_has_no_deliveries(endpoints, deliveries, end_job):
    endpoint = registered(endpoints)
    end_job()
    endpoints.delete(ANN, endpoint.id)

    assert listed(deliveries) == []


def test_a_test_is_sent_once_even_if_the_endpoint_is_disabled(endpoints, deliveries, letters):
    endpoint = registered(endpoints, enabled=False, events=[Event.JOB_FAILED])
    test_id = endpoints.test(ANN, endpoint.id)
    (claimed,) = claim_all(deliveries)

    assert (claimed.record.id, claimed.record.event, claimed.record.job_id) == (test_id, Event.TEST, None)
    assert deliveries.record([attempted(claimed, BROKEN)]) == [DeliveryState.FAILED]
    assert letters.counts()["waiting"] == 0


def test_the_secret_of_jobs_rotates(endpoints):
    assert endpoints.rotate_of_jobs(ANN, b"first", timedelta(hours=1)) is None
    assert endpoints.rotate_of_jobs(ANN, b"second", timedelta(hours=1)) is not None

    assert endpoints.secret_of_owner(ANN, b"unused") == [b"second", b"first"]
