"""Deliveries: how couriers take and record them, and how owners list and replay them."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from jobs import ANN, BOB, claim, fail, finish, job_row, new_job, submit
from webhooks import BROKEN, GONE, OK, attempted, claim_all, delivery_states, listed, registered

from pixtools.database import delivery_claims
from pixtools.database.delivery_store import DeliveryStore
from pixtools.errors import DeliveryPending, LeaseLost, NotFound
from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.retries import DELIVERY_PAUSES
from pixtools.states import DeadLetterState, DeliveryState
from pixtools.webhooks.events import Event
from pixtools.webhooks.records import Answered, DeliverySelection

WAITING, SENDING, DELIVERED = DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.DELIVERED
FAILED, HELD, DISCARDED = DeliveryState.FAILED, DeliveryState.HELD, DeliveryState.DISCARDED


@pytest.fixture
def end_job(store):
    """A function that ends a new job with a `webhook_url`, and returns the id of the job."""

    def end(url: str = "https://receiver.example/hook", owner: str = ANN, **options) -> uuid.UUID:
        submit(store, new_job(owner=owner, webhook_url=url, **options))
        finish(store, claimed := claim(store), "a", settle=True)
        return claimed.id

    return end


@pytest.fixture
def due(database):
    """A function after which all waiting deliveries are due."""
    return lambda: database.execute("UPDATE delivery SET next_at = now() WHERE state = 'waiting'")


@pytest.fixture
def end_leases(database):
    return lambda: database.execute("UPDATE delivery SET lease_until = now() - interval '1 second'")


def pause(deliveries, database) -> timedelta:
    """Return the time between now and the next attempt of the only delivery."""
    (delivery,) = listed(deliveries)
    return delivery.next_at - database.execute("SELECT now()").fetchone()[0]


# Claims


def test_a_delivery_is_claimed_once(deliveries, end_job):
    end_job()
    (claimed,) = claim_all(deliveries)

    assert (claimed.record.state, claimed.record.attempt, claimed.owner) == (SENDING, 1, ANN)
    assert claim_all(deliveries) == []


def test_two_couriers_never_claim_the_same_delivery(deliveries, end_job):
    for _ in range(40):
        end_job()
    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda courier: claim_all(deliveries, courier, limit=10), "abcd"))

    ids = [each.record.id for found in claims for each in found]
    assert len(ids) == len(set(ids)) == 40


def test_destinations_take_turns(deliveries, end_job):
    for number in range(30):
        end_job(f"https://many.example/{number}")
    end_job("https://few.example/")

    after, found = "", []
    for _ in range(3):
        claimed, after = deliveries.claim("c0", 2, 2, {}, timedelta(seconds=60), after)
        found.append([each.record.destination.removeprefix("https://") for each in claimed])
    assert found == [["few.example:443"], ["many.example:443"] * 2, ["many.example:443"] * 2]


def test_a_destination_gets_no_more_deliveries_than_it_has_places(deliveries, end_job):
    for number in range(9):
        end_job(f"https://many.example/{number}")
    end_job("https://few.example/")
    destination = "https://many.example:443"

    assert len(claim_all(deliveries, room=4, taken={destination: 3})) == 2
    assert claim_all(deliveries, room=4, taken={destination: 4}) == []
    assert len(claim_all(deliveries, room=4)) == 4


def test_a_destination_with_thousands_of_deliveries_does_not_hide_the_others(deliveries, end_job, database):
    end_job("https://many.example/")
    database.execute(
        "INSERT INTO delivery (id, owner, event, job_id, url, destination, data, next_at) SELECT gen_random_uuid(),"
        " owner, event, job_id, url, destination, data, next_at - interval '1 hour'"
        " FROM delivery, generate_series(1, 3000)"
    )
    end_job("https://few.example/")
    found = claim_all(deliveries, room=4)
    assert Counter(each.record.destination for each in found) == {
        "https://many.example:443": 4,
        "https://few.example:443": 1,
    }
    assert claim_all(deliveries, room=4, taken={"https://many.example:443": 4}) == []


def test_a_claim_looks_at_some_destinations_and_the_next_one_goes_on(deliveries, end_job, monkeypatch):
    monkeypatch.setattr(delivery_claims, "_WINDOW", 2)
    for name in "dbeac":
        end_job(f"https://{name}.example/")
    found, after = [], ""
    for _ in range(4):
        claimed, after = deliveries.claim("c0", 10, 4, {}, timedelta(seconds=60), after)
        found.append("".join(sorted(each.record.destination.removeprefix("https://")[0] for each in claimed)))

    assert found == ["ab", "cd", "e", ""]
    assert after == ""


def test_a_claim_does_not_read_the_deliveries_of_full_destinations(deliveries, end_job, database):
    end_job("https://many.example/")
    database.execute(
        "INSERT INTO delivery (id, owner, event, job_id, url, destination, data, next_at) SELECT gen_random_uuid(),"
        " owner, event, job_id, url, destination, data, next_at - interval '1 hour'"
        " FROM delivery, generate_series(1, 20000)"
    )
    database.execute("ANALYZE delivery")
    reads = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'delivery_queue'"

    def read() -> int:
        database.execute("SELECT pg_stat_force_next_flush()")
        database.execute("SELECT pg_stat_clear_snapshot()")
        return database.execute(reads).fetchone()[0]

    before = read()
    assert claim_all(deliveries, room=4, taken={"https://many.example:443": 4}) == []
    assert len(claim_all(deliveries, room=4)) == 4
    time.sleep(1.2)  # Postgres writes the statistics of an idle connection after a second
    assert read() - before < 200


def test_the_order_of_one_destination_is_the_order_of_the_events(deliveries, end_job):
    jobs = [end_job() for _ in range(5)]

    assert [each.record.job_id for each in claim_all(deliveries)] == jobs


def test_a_claim_brings_the_secrets_and_the_wishes_of_the_endpoint(deliveries, endpoints, end_job):
    endpoint = registered(endpoints, include_urls=True)
    end_job(url=None)
    endpoints.rotate(ANN, endpoint.id, b"new", timedelta(hours=1))
    (claimed,) = claim_all(deliveries)

    assert (claimed.secrets, claimed.include_urls, claimed.is_process) == ((b"new", b"secret"), True, False)


def test_a_previous_secret_ends(deliveries, endpoints, end_job, database):
    endpoint = registered(endpoints)
    endpoints.rotate(ANN, endpoint.id, b"new", timedelta(hours=1))
    database.execute("UPDATE webhook_endpoint SET previous_until = now() - interval '1 second'")
    end_job(url=None)

    assert claim_all(deliveries)[0].secrets == (b"new",)


def test_the_secret_of_the_jobs_of_an_owner_is_made_once(deliveries, endpoints, end_job):
    end_job()
    assert claim_all(deliveries)[0].secrets == ()
    assert endpoints.secret_of_owner(ANN, b"first") == [b"first"]
    assert endpoints.secret_of_owner(ANN, b"second") == [b"first"]
    end_job()
    end_job(owner=BOB)
    claims = claim_all(deliveries)

    assert {each.owner: each.secrets for each in claims} == {ANN: (b"first",), BOB: ()}


def test_only_the_webhook_url_of_a_process_job_gets_the_body_of_the_first_pixtools(deliveries, endpoints, end_job):
    registered(endpoints)
    end_job(is_process=True)

    assert {each.record.endpoint_id is None: each.is_process for each in claim_all(deliveries)} == {
        True: True,
        False: False,
    }


# Results


def test_the_details_have_the_last_fifty_attempts(deliveries, end_job, database):
    end_job()
    (claimed,) = claim_all(deliveries)
    database.execute(
        "INSERT INTO delivery_attempt (delivery_id, number) SELECT %s, number FROM generate_series(1, 300) number",
        [claimed.record.id],
    )
    assert [each.number for each in deliveries.get(ANN, claimed.record.id)[1]] == list(range(251, 301))


def test_a_delivery_that_was_accepted_has_ended(deliveries, end_job):
    end_job()
    (claimed,) = claim_all(deliveries)

    assert deliveries.record([attempted(claimed)]) == [DELIVERED]
    delivery, (attempt,) = deliveries.get(ANN, claimed.record.id)
    assert (delivery.state, delivery.finished_at is not None) == (DELIVERED, True)
    assert (attempt.number, attempt.status, attempt.ms, attempt.error) == (1, 204, 12, None)


def test_a_failed_delivery_waits_longer_after_each_attempt(deliveries, end_job, database, due):
    end_job()
    for number, expected in enumerate(DELIVERY_PAUSES, start=1):
        (claimed,) = claim_all(deliveries)
        assert deliveries.record([attempted(claimed, BROKEN)]) == [WAITING]
        assert 0.8 * expected - timedelta(seconds=5) <= pause(deliveries, database) <= 1.2 * expected
        assert claim_all(deliveries) == []
        assert listed(deliveries)[0].failures == number
        due()
    (claimed,) = claim_all(deliveries)
    assert deliveries.record([attempted(claimed, BROKEN)]) == [FAILED]
    assert len(deliveries.get(ANN, claimed.record.id)[1]) == 10


@pytest.mark.parametrize(("asked_s", "least_s", "most_s"), [(3_600, 3_595, 4_320), (10**7, 86_395, 86_400), (1, 0, 7)])
def test_the_receiver_may_ask_for_a_longer_pause_up_to_a_day(deliveries, end_job, database, asked_s, least_s, most_s):
    end_job()
    (claimed,) = claim_all(deliveries)
    busy = Answered(status=429, error=None, ms=1, retry_after=timedelta(seconds=asked_s))
    deliveries.record([attempted(claimed, busy)])

    assert least_s <= pause(deliveries, database).total_seconds() <= most_s


def test_results_of_many_deliveries_are_recorded_together(deliveries, end_job):
    for _ in range(5):
        end_job()
    claims = claim_all(deliveries)
    results = [attempted(claims[0]), attempted(claims[1], BROKEN), attempted(claims[2], GONE), attempted(claims[3])]

    assert deliveries.record(results) == [DELIVERED, WAITING, FAILED, DELIVERED]
    assert delivery_states(deliveries) == [DELIVERED, WAITING, FAILED, DELIVERED, SENDING]


def test_a_postponed_delivery_has_spent_no_attempt(deliveries, end_job, database):
    end_job()
    (claimed,) = claim_all(deliveries)
    deliveries.postpone(claimed.record.id, claimed.record.attempt, timedelta(seconds=50))

    (delivery,) = listed(deliveries)
    assert (delivery.state, delivery.failures) == (WAITING, 0)
    assert 40 < pause(deliveries, database).total_seconds() <= 50
    assert deliveries.get(ANN, delivery.id)[1] == []


def test_a_lost_lease_counts_as_a_failed_attempt(deliveries, end_job, end_leases):
    end_job()
    (claimed,) = claim_all(deliveries)
    assert deliveries.rescue() == 0
    end_leases()
    assert deliveries.rescue() == 1
    assert claim_all(deliveries) == []

    delivery, (attempt,) = deliveries.get(ANN, claimed.record.id)
    assert (delivery.state, delivery.failures, attempt.error) == (WAITING, 1, "courier_lost")


@pytest.mark.parametrize("result", [OK, BROKEN, GONE])
def test_a_zombie_changes_nothing(deliveries, end_job, end_leases, due, result):
    end_job()
    (zombie,) = claim_all(deliveries)
    end_leases()
    deliveries.rescue()
    due()
    (current,) = claim_all(deliveries)
    before = deliveries.get(ANN, zombie.record.id)

    (lost,) = deliveries.record([attempted(zombie, result)])
    deliveries.postpone(zombie.record.id, zombie.record.attempt, timedelta(seconds=50))
    assert isinstance(lost, LeaseLost)
    assert deliveries.get(ANN, zombie.record.id) == before
    assert deliveries.record([attempted(current)]) == [DELIVERED]


def test_a_courier_that_restarts_gives_its_deliveries_back(deliveries, end_job):
    end_job()
    end_job()
    claim_all(deliveries, "c0", limit=1)
    claim_all(deliveries, "c1", limit=1)

    assert deliveries.give_back("c0") == 1
    assert sorted(delivery_states(deliveries)) == [SENDING, WAITING]


# Receivers that are gone


def test_a_receiver_that_is_gone_disables_its_endpoint(deliveries, endpoints, end_job):
    endpoint = registered(endpoints)
    for _ in range(3):
        end_job(url=None)
    first = claim_all(deliveries, limit=2)
    deliveries.record([attempted(first[0], GONE)])

    disabled = endpoints.get(ANN, endpoint.id)
    assert (disabled.enabled, disabled.disabled_reason) == (False, "The receiver answered 410 (Gone).")
    assert delivery_states(deliveries) == [FAILED, SENDING, HELD]
    deliveries.record([attempted(first[1], BROKEN)])
    assert delivery_states(deliveries) == [FAILED, HELD, HELD]
    end_job(url=None)
    assert len(listed(deliveries)) == 3

    endpoints.change(ANN, endpoint.id, {"enabled": True})
    assert delivery_states(deliveries) == [FAILED, WAITING, WAITING]
    assert endpoints.get(ANN, endpoint.id).disabled_reason is None
    assert len(claim_all(deliveries)) == 2


def test_a_webhook_url_that_is_gone_gets_a_dead_letter(deliveries, letters, end_job):
    end_job()
    (claimed,) = claim_all(deliveries)

    assert deliveries.record([attempted(claimed, GONE)]) == [FAILED]
    assert len(open_letters(letters)) == 1


# Dead letters


def open_letters(letters, owner: str = ANN):
    return letters.page(owner, DeadLetterSelection(), states=["waiting", "redriving"], before=None, limit=100)


@pytest.fixture
def dead(deliveries, end_job):
    """A delivery that has failed."""
    end_job(is_process=True)
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed, GONE)])
    return claimed.record


def test_a_failed_delivery_has_a_dead_letter(deliveries, letters, dead, database):
    (view,) = open_letters(letters)

    assert (view.letter.delivery_id, view.letter.step, view.letter.job_id) == (dead.id, None, dead.job_id)
    assert (view.op, view.url, view.history) == (None, dead.url, ())
    assert (view.letter.error["code"], view.letter.error["status"]) == ("delivery_failed", 502)
    assert view.letter.error["detail"] == "Attempts: 1. The last one ended with status 410."
    assert deliveries.webhook_failed(dead.job_id)
    assert job_row(database, dead.job_id).state == "succeeded"


def test_the_view_of_a_job_changes_when_its_webhook_has_failed(deliveries, end_job, database):
    job = end_job()
    version = job_row(database, job).version
    (claimed,) = claim_all(deliveries)
    deliveries.record([attempted(claimed, GONE)])

    assert job_row(database, job).version == version + 1


def test_a_redrive_sends_a_failed_delivery_again(deliveries, letters, dead, database):
    job_before = job_row(database, dead.job_id).state
    (letter,) = letters.request_redrive(ANN, DeadLetterSelection())
    redriven = letters.redrive(letter)

    assert (redriven.steps, redriven.deliveries) == (0, 1)
    assert open_letters(letters) == []
    (claimed,) = claim_all(deliveries)
    assert (claimed.record.id, claimed.record.failures) == (dead.id, 0)
    assert deliveries.record([attempted(claimed)]) == [DELIVERED]
    assert not deliveries.webhook_failed(dead.job_id)
    assert job_row(database, dead.job_id).state == job_before


def test_a_discarded_delivery_is_never_sent_again(deliveries, letters, dead):
    assert letters.discard(ANN, DeadLetterSelection()) == 1

    assert delivery_states(deliveries) == [DISCARDED]
    with pytest.raises(DeliveryPending, match="discarded"):
        deliveries.replay(ANN, dead.id)
    assert deliveries.replay_selected(ANN, DeliverySelection(), 10) == 0
    assert deliveries.webhook_failed(dead.job_id)


def test_to_retry_a_job_sends_no_webhook_again(store, deliveries, letters):
    submit(store, new_job(webhook_url="https://receiver.example/"))
    fail(store, claimed := claim(store), "a")
    finish(store, claimed, settle=True)
    (delivery,) = claim_all(deliveries)
    deliveries.record([attempted(delivery, GONE)])

    assert letters.retry(ANN, claimed.id).deliveries == 0
    assert [view.letter.delivery_id for view in open_letters(letters)] == [delivery.record.id]
    store.cancel(ANN, claimed.id)
    assert len(open_letters(letters)) == 1


def test_the_dead_letter_of_a_delivery_does_not_stop_the_expiry_of_its_job(retention, dead, clock):
    clock.end_retention(dead.job_id)

    assert len(retention.expire_jobs()) == 1


# Owners


def test_an_owner_sees_only_own_deliveries(deliveries, end_job):
    end_job(owner=BOB)
    (delivery,) = listed(deliveries, BOB)

    assert listed(deliveries) == []
    with pytest.raises(NotFound):
        deliveries.get(ANN, delivery.id)
    with pytest.raises(NotFound):
        deliveries.replay(ANN, delivery.id)


def test_deliveries_can_be_selected(deliveries, endpoints, end_job):
    endpoint = registered(endpoints)
    first, second = end_job(), end_job(url=None)

    assert {each.job_id for each in listed(deliveries, endpoint=endpoint.id)} == {first, second}
    assert len(listed(deliveries, job=first)) == 2
    assert listed(deliveries, event=Event.JOB_FAILED) == listed(deliveries, state=FAILED) == []
    assert [each.job_id for each in deliveries.page(ANN, DeliverySelection(), before=None, limit=1)] == [second]
    (last,) = deliveries.page(ANN, DeliverySelection(), before=None, limit=1)
    assert len(deliveries.page(ANN, DeliverySelection(), before=last.id, limit=10)) == 2


def test_a_replay_sends_an_ended_delivery_with_the_same_id(deliveries, letters, dead):
    deliveries.replay(ANN, dead.id)

    (claimed,) = claim_all(deliveries)
    assert (claimed.record.id, claimed.record.attempt) == (dead.id, 2)
    assert open_letters(letters) == []
    states = [
        view.letter.state
        for view in letters.page(ANN, DeadLetterSelection(), states=list(DeadLetterState), before=None, limit=9)
    ]
    assert states == [DeadLetterState.REDRIVEN]
    with pytest.raises(DeliveryPending, match="is sending"):
        deliveries.replay(ANN, dead.id)


def test_selected_deliveries_are_replayed_at_a_limited_rate(deliveries, end_job, database):
    for _ in range(6):
        end_job()
    claims = claim_all(deliveries)
    deliveries.record([attempted(each) for each in claims])
    end_job()

    assert deliveries.replay_selected(ANN, DeliverySelection(state=DELIVERED), per_s=2.0) == 6
    now = database.execute("SELECT now()").fetchone()[0]
    pauses = [(delivery.next_at - now).total_seconds() for delivery in listed(deliveries)[:6]]
    assert pauses == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=0.4)


def age(database) -> None:
    """Move all times of deliveries by 31 days into the past."""
    database.execute(
        "UPDATE delivery SET created_at = created_at - interval '31 days',"
        " finished_at = finished_at - interval '31 days'"
    )


def test_old_deliveries_that_have_ended_are_deleted(deliveries, end_job, database):
    end_job()
    deliveries.record([attempted(claim_all(deliveries)[0])])
    age(database)
    new = end_job()
    deliveries.record([attempted(claim_all(deliveries)[0])])

    assert deliveries.delete_old(timedelta(days=30)) == 1
    assert [each.job_id for each in listed(deliveries)] == [new]


def test_old_deliveries_stay_until_they_have_ended(deliveries, endpoints, letters, end_job, database, dead):
    endpoint = registered(endpoints, events=[Event.JOB_SUCCEEDED])
    end_job(url=None)
    endpoints.change(ANN, endpoint.id, {"enabled": False})
    end_job()
    claim_all(deliveries)
    end_job()
    age(database)
    states = Counter(delivery_states(deliveries))
    assert set(states) == {FAILED, HELD, SENDING, WAITING}
    assert deliveries.delete_old(timedelta(days=30)) == 0
    assert Counter(delivery_states(deliveries)) == states

    assert letters.discard(ANN, DeadLetterSelection(job=dead.job_id)) == 1
    assert deliveries.delete_old(timedelta(days=30)) == 1
    with pytest.raises(NotFound):
        deliveries.get(ANN, dead.id)


def test_couriers_are_needed_while_a_delivery_has_not_ended(deliveries: DeliveryStore, end_job):
    end_job()
    assert deliveries.is_used()
    (claimed,) = claim_all(deliveries)
    assert deliveries.is_used()
    deliveries.record([attempted(claimed)])
    assert not deliveries.is_used()


def test_couriers_are_needed_while_an_endpoint_exists(deliveries, endpoints):
    endpoint = registered(endpoints)
    assert deliveries.is_used()
    endpoints.delete(ANN, endpoint.id)
    assert not deliveries.is_used()


def test_open_deliveries_are_counted(deliveries, endpoints, end_job):
    endpoint = registered(endpoints)
    end_job()
    claim_all(deliveries, limit=1)
    endpoints.change(ANN, endpoint.id, {"enabled": False})
    counts = deliveries.counts()

    assert sum(counts.values()) == 2
    assert counts[SENDING] == 1
