"""One key, one job: whatever is sent again, by however many at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from jobs import ANN, BOB, asked, finish, new_job, submit

from pixtools.database.job_store import Idempotency, JobStore
from pixtools.errors import KeyReused


def jobs(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM job").fetchone()[0]


def test_a_key_that_was_never_used_has_no_answer(store):
    assert store.replay(asked()) is None


def test_the_same_request_gets_the_same_bytes_again_and_makes_no_job(store, database):
    first = submit(store, request=asked())

    for again in (submit(store, request=asked()), store.replay(asked())):
        assert (again.body, again.job_id, again.replayed) == (first.body, first.job_id, True)
    assert first.replayed is False
    assert jobs(database) == 1


def test_the_answer_stays_the_same_when_the_job_has_moved_on(store):
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
def test_a_key_counts_for_its_owner_and_route_alone(store, database, other):
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
    answers = at_once(store, [asked()] * 30)

    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert jobs(database) == 1
    assert store.get(ANN, answers[0].job_id).job.id == answers[0].job_id


def test_of_different_requests_with_one_key_at_once_one_is_accepted(store, database):
    answers = at_once(store, [asked(content=f"request {number}") for number in range(10)])

    assert sum(isinstance(answer, KeyReused) for answer in answers) == 9
    assert jobs(database) == 1


def test_an_expired_answer_frees_its_key(store, clock):
    first = submit(store, request=asked())
    clock.end_answer("k")

    assert store.replay(asked(content="other")) is None
    second = submit(store, request=asked(content="other"))

    assert second.replayed is False
    assert second.job_id != first.job_id
    assert store.replay(asked(content="other")).job_id == second.job_id
    with pytest.raises(KeyReused):
        store.replay(asked())


def test_an_expired_key_is_taken_once_by_many_at_once(store, clock):
    submit(store, request=asked())
    clock.end_answer("k")

    answers = at_once(store, [asked()] * 10)

    assert sum(not answer.replayed for answer in answers) == 1
    assert jobs(clock.database) == 2


def test_only_answers_whose_time_is_over_are_forgotten(store, clock):
    for key in ("old", "older", "new"):
        submit(store, request=asked(key))
    clock.end_answer("old")
    clock.end_answer("older")

    assert store.forget_answers() == 2
    assert store.forget_answers() == 0
    assert store.replay(asked("new")) is not None
    assert jobs(clock.database) == 3


def test_an_answer_is_kept_as_long_as_the_settings_say(store, database, settings):
    submit(store, request=asked())

    kept = database.execute("SELECT expires_at - created_at FROM idempotency").fetchone()[0]
    assert kept == settings.idempotency_ttl


def test_a_key_is_as_good_as_new_when_its_job_is_deleted(store, database):
    submit(store, request=asked())
    database.execute("DELETE FROM job")

    assert submit(store, request=asked(content="other")).replayed is False


def test_nothing_is_dispatched_before_its_commit(store):
    def render(_) -> bytes:
        assert store.claim("d0", 10) == []
        return b""

    accepted = store.submit(new_job(), asked(), render)

    assert [claimed.id for claimed in store.claim("d0", 10)] == [accepted.job_id]
