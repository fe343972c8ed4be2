"""Idempotency keys: one key makes one job, even if many clients send the request many times."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from databases import HookedDatabase
from jobs import ANN, BOB, asked, finish, new_job, submit

from pixtools.database.job_store import JobStore
from pixtools.errors import KeyReused
from pixtools.jobs.submission import Idempotency


def jobs(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM job").fetchone()[0]


def test_a_key_that_was_never_used_has_no_response(store):
    assert store.replay(asked()) is None


def test_a_repeated_request_gets_the_same_bytes_and_makes_no_job(store, database):
    first = submit(store, request=asked())

    for again in (submit(store, request=asked()), store.replay(asked())):
        assert (again.body, again.job_id, again.replayed) == (first.body, first.job_id, True)
    assert first.replayed is False
    assert jobs(database) == 1


def test_the_response_stays_the_same_when_the_job_has_ended(store):
    first = submit(store, request=asked())
    (claimed,) = store.claim("d0", 1)
    finish(store, claimed, "a", settle=True)

    assert submit(store, request=asked()).body == first.body


def test_a_key_with_another_content_is_refused(store, database):
    submit(store, request=asked())

    for call in (lambda request: submit(store, request=request), store.replay):
        with pytest.raises(KeyReused):
            call(asked(content="other"))
    assert jobs(database) == 1


@pytest.mark.parametrize("other", [asked(owner=BOB), asked(route="POST /api/process"), asked("k2")])
def test_a_key_is_valid_only_for_its_owner_and_route(store, database, other):
    first = submit(store, request=asked())

    assert store.replay(other) is None
    second = submit(store, new_job(owner=other.scope.owner), other)

    assert second.replayed is False
    assert second.job_id != first.job_id
    assert jobs(database) == 2


def test_requests_without_a_key_are_all_new(store, database):
    assert submit(store).job_id != submit(store).job_id
    assert jobs(database) == 2


def at_once(store: JobStore, requests: list[Idempotency]) -> list:
    ready = threading.Barrier(len(requests))

    def send(request: Idempotency):
        ready.wait(10)
        try:
            return submit(store, request=request)
        except KeyReused as error:
            return error

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(send, requests))


def test_thirty_requests_with_one_key_at_once_are_one_job(store, database):
    responses = at_once(store, [asked()] * 30)

    assert len({response.body for response in responses}) == 1
    assert sum(not response.replayed for response in responses) == 1
    assert jobs(database) == 1
    assert store.get(ANN, responses[0].job_id).job.id == responses[0].job_id


def test_of_different_requests_with_one_key_at_once_one_is_accepted(store, database):
    responses = at_once(store, [asked(content=f"request {number}") for number in range(10)])

    assert sum(isinstance(response, KeyReused) for response in responses) == 9
    assert jobs(database) == 1


def test_an_expired_response_frees_its_key(store, clock):
    first = submit(store, request=asked())
    clock.end_response("k")

    assert store.replay(asked(content="other")) is None
    second = submit(store, request=asked(content="other"))

    assert second.replayed is False
    assert second.job_id != first.job_id
    assert store.replay(asked(content="other")).job_id == second.job_id
    with pytest.raises(KeyReused):
        store.replay(asked())


def test_of_many_requests_with_an_expired_key_at_once_one_makes_a_job(store, clock):
    submit(store, request=asked())
    clock.end_response("k")

    responses = at_once(store, [asked()] * 10)

    assert sum(not response.replayed for response in responses) == 1
    assert jobs(clock.database) == 2


def test_only_expired_responses_are_deleted(store, clock):
    for key in ("old", "older", "new"):
        submit(store, request=asked(key))
    clock.end_response("old")
    clock.end_response("older")

    assert store.delete_expired_responses() == 2
    assert store.delete_expired_responses() == 0
    assert store.replay(asked("new")) is not None
    assert jobs(clock.database) == 3


def test_a_response_is_kept_for_its_time_to_live(store, database, settings):
    submit(store, request=asked())

    lifetime = database.execute("SELECT expires_at - created_at FROM idempotency").fetchone()[0]
    assert lifetime == settings.idempotency_ttl


def test_a_key_is_free_when_its_job_was_deleted(store, database):
    submit(store, request=asked())
    database.execute("DELETE FROM job")

    assert submit(store, request=asked(content="other")).replayed is False


def test_no_job_is_claimed_before_its_commit(store, settings):
    claimed_before = []
    database = HookedDatabase(settings, lambda: claimed_before.append(store.claim("d0", 10)))
    new = replace(new_job(), created_at=store.now())

    accepted = submit(JobStore(database, settings), new, asked())
    database.close()

    assert claimed_before == [[]]
    assert [claimed.id for claimed in store.claim("d0", 10)] == [accepted.job_id]
