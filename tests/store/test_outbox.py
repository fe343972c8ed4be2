"""The transaction that ends a job writes one delivery for each receiver, and no other transaction writes any."""

from __future__ import annotations

import json

import pytest
from jobs import ANN, BOB, CHAIN, claim, fail, finish, new_job, submit
from webhooks import URL, listed, registered

from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.job_store import JobStore
from pixtools.errors import LeaseLost
from pixtools.jobs.outcomes import Batch
from pixtools.states import DeliveryState
from pixtools.webhooks.events import CHOSEN_EVENTS, Event


def events(deliveries, owner=ANN):
    return [delivery.event for delivery in listed(deliveries, owner)]


def test_a_job_without_a_receiver_makes_no_delivery(store: JobStore, deliveries: DeliveryStore):
    submit(store)
    finish(store, claim(store), "a", settle=True)

    assert listed(deliveries) == []
    assert not deliveries.is_used()


def test_the_webhook_url_of_a_job_gets_the_end_of_this_job(store, deliveries):
    accepted = submit(store, new_job(webhook_url=URL))
    submit(store)
    assert listed(deliveries) == []
    claims = store.claim("d0", 2)
    for each in claims:
        finish(store, each, "a", settle=True)

    (delivery,) = listed(deliveries)
    assert (delivery.event, delivery.job_id, delivery.endpoint_id) == (Event.JOB_SUCCEEDED, accepted.job_id, None)
    assert (delivery.url, delivery.destination) == (URL, "https://receiver.example:443")
    assert delivery.state is DeliveryState.WAITING
    assert delivery.data == {
        "job_id": str(accepted.job_id),
        "state": "succeeded",
        "steps": {"a": {"op": "png", "state": "succeeded", "error": None}},
    }


def test_each_endpoint_of_the_owner_gets_each_end_once(store, deliveries, endpoints):
    first, second = registered(endpoints), registered(endpoints, url="http://other.example:81/")
    registered(endpoints, BOB)
    for _ in range(3):
        submit(store, new_job(webhook_url=URL))
    for each in store.claim("d0", 3):
        finish(store, each, "a", settle=True)

    receivers = [(delivery.job_id, delivery.endpoint_id) for delivery in listed(deliveries)]
    assert len(receivers) == len(set(receivers)) == 9
    assert {endpoint for _, endpoint in receivers} == {None, first.id, second.id}
    assert listed(deliveries, BOB) == []


def test_an_endpoint_gets_only_the_events_that_it_has_chosen(store, deliveries, endpoints):
    registered(endpoints, events=[Event.JOB_FAILED])
    registered(endpoints, events=[Event.JOB_SUCCEEDED], enabled=False)
    submit(store)
    finish(store, claim(store), "a", settle=True)
    assert listed(deliveries) == []

    submit(store)
    fail(store, claimed := claim(store), "a")
    finish(store, claimed, settle=True)
    assert events(deliveries) == [Event.JOB_FAILED]


def test_a_partial_job_and_its_dead_letter_are_two_events(store, deliveries, endpoints):
    registered(endpoints, events=list(CHOSEN_EVENTS))
    submit(store, new_job({"a": ("source",), "b": ("source",)}))
    claimed = claim(store)
    fail(store, claimed, "a")
    finish(store, claimed, "b", settle=True)

    letter, end = listed(deliveries)
    assert (letter.event, end.event) == (Event.DEAD_LETTER_CREATED, Event.JOB_PARTIAL)
    assert letter.data["step"] == "a"
    assert letter.data["error"]["code"] == end.data["steps"]["a"]["error"]["code"] == "corrupt_image"
    assert letter.data["job_id"] == end.data["job_id"] == str(claimed.id)


def test_the_skipped_steps_are_in_the_event_of_a_failed_job(store, deliveries, endpoints):
    registered(endpoints)
    submit(store, new_job(CHAIN))
    fail(store, claimed := claim(store), "t", "other")
    finish(store, claimed, settle=True)

    (delivery,) = listed(deliveries)
    found = {name: step["state"] for name, step in delivery.data["steps"].items()}
    assert found == {"t": "failed", "a": "skipped", "b": "skipped", "z": "skipped", "other": "failed"}


def test_a_cancelled_job_is_an_event(store, deliveries):
    accepted = submit(store, new_job(webhook_url=URL))
    store.cancel(ANN, accepted.job_id)
    store.cancel(ANN, accepted.job_id)

    (delivery,) = listed(deliveries)
    assert (delivery.event, delivery.data["steps"]["a"]["state"]) == (Event.JOB_CANCELLED, "cancelled")


def test_a_job_whose_dispatchers_died_too_often_is_an_event(settings, store, deliveries, clock):
    submit(store, new_job(webhook_url=URL))
    for _ in range(settings.max_crashes):
        claimed = claim(store)
        store.rescue("d0")
        clock.end_backoff(claimed.id)

    assert events(deliveries) == [Event.JOB_FAILED]


def test_a_job_that_ends_again_after_a_redrive_is_another_event(store, deliveries, letters):
    submit(store, new_job(webhook_url=URL))
    fail(store, claimed := claim(store), "a")
    finish(store, claimed, settle=True)
    letters.retry(ANN, claimed.id)
    finish(store, claim(store), "a", settle=True)

    assert events(deliveries) == [Event.JOB_FAILED, Event.JOB_SUCCEEDED]


def test_a_zombie_writes_no_event(store, deliveries):
    submit(store, new_job(webhook_url=URL))
    claimed = claim(store)
    store.rescue("d0")

    (result,) = store.record([Batch(claimed.id, claimed.attempt, (), settle=True)])
    assert isinstance(result, LeaseLost)
    assert listed(deliveries) == []


def test_the_data_of_a_job_with_many_long_errors_are_small(store, deliveries):
    names = {f"{number:02}{'n' * 62}": ("source",) for number in range(50)}
    submit(store, new_job(names, webhook_url=URL))
    claimed = claim(store)
    fail(store, claimed, *names)
    finish(store, claimed, settle=True)

    (delivery,) = listed(deliveries)
    assert set(delivery.data) == {"job_id", "state", "steps"}
    assert len(delivery.data["steps"]) == 50
    assert len(json.dumps(delivery.data)) < 18_000


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_that_is_sent_twice_writes_one_event(store, deliveries, again):
    submit(store, new_job(webhook_url=URL))
    claimed = claim(store)
    finish(store, claimed, "a")
    batch = Batch(claimed.id, claimed.attempt, (), number=9, settle=True)
    store.record([batch])
    if again:
        store.record([batch])

    assert events(deliveries) == [Event.JOB_SUCCEEDED]
