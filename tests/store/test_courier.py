"""A courier with a real database, real Redis and real receivers. The tests move the times in the database."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
import redis
from jobs import ANN, claim, finish, new_job, submit
from pydantic import SecretStr
from receivers import cut, dripping, dripping_body, endless, in_turn, receiver, self_signed, status
from standardwebhooks.webhooks import Webhook
from webhooks import delivery_states, listed, registered

from actors import courier as courier_module
from actors.courier import Courier
from actors.webhook_bodies import WebhookBodies
from pixtools.blob_store import BlobStore
from pixtools.database.connection import Database
from pixtools.database.delivery_store import DeliveryStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.database.job_store import JobStore
from pixtools.errors import DatabaseDown
from pixtools.local.ports import free_port
from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.client import OutboundClient
from pixtools.redis.circuits import Circuits
from pixtools.redis.hints import DELIVERIES, Hints
from pixtools.states import DeliveryState
from pixtools.webhooks.vault import Vault

pytestmark = pytest.mark.anyio

WAITING, DELIVERED, FAILED, HELD = (
    DeliveryState.WAITING,
    DeliveryState.DELIVERED,
    DeliveryState.FAILED,
    DeliveryState.HELD,
)
KEYS = SecretStr("k" * 32)
SECRET = "whsec_" + "QUJD" * 10
ENCRYPTED = Vault(KEYS).encrypt(SECRET)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def with_keys(settings):
    """Settings with a key for secrets."""
    return settings.model_copy(update={"webhook_keys": KEYS})


@pytest.fixture(autouse=True)
def valkey(settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def start(with_keys, pool):
    """A context that runs a courier."""

    @asynccontextmanager
    async def run(name="c0", *, allow_private=True, store=None, clock=time.monotonic):
        ended = asyncio.Event()
        async with OutboundClient(AddressPolicy(allow_private=allow_private), max_connections=256) as client:
            store = store or DeliveryStore(pool)
            circuits, hints = Circuits(with_keys), Hints(with_keys)
            bodies = WebhookBodies(JobStore(pool, with_keys), EndpointStore(pool), BlobStore(with_keys), Vault(KEYS))
            courier = Courier(
                name, with_keys, store=store, bodies=bodies, circuits=circuits, hints=hints, client=client,
                destroy_self=ended.set, clock=clock,
            )  # fmt: skip
            courier.ended = ended
            await courier.start()
            yield courier
            for task in [*courier._loops, *courier._sending]:
                task.cancel()
            await asyncio.gather(*courier._loops, *courier._sending, return_exceptions=True)
            # The report of a cancelled attempt goes on in this thread. It could change a circuit that a test sets.
            await asyncio.to_thread(courier._circuit_thread.shutdown)
            await hints.close()
            circuits.close()

    return run


@pytest.fixture
async def courier(start):
    async with start() as running:
        yield running


@pytest.fixture
def end_job(store):
    def end(url: str | None, **options) -> str:
        submit(store, new_job(webhook_url=url, **options))
        finish(store, claimed := claim(store), "a", settle=True)
        return str(claimed.id)

    return end


@pytest.fixture
def due(database):
    return lambda: database.execute("UPDATE delivery SET next_at = now() WHERE state = 'waiting'")


async def until(condition, within_s=20.0):
    """Wait until `condition` returns something true, and return that."""
    async with asyncio.timeout(within_s):
        while not (found := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.02)
    return found


def attempts(deliveries, number=0):
    return deliveries.get(ANN, listed(deliveries)[number].id)[1]


async def until_attempted(deliveries, times=1):
    """Wait until the only delivery has had this number of attempts. Return the last one."""
    return (await until(lambda: len(found := attempts(deliveries)) >= times and found))[-1]


# Receivers


@pytest.mark.usefixtures("courier")
async def test_an_event_arrives_signed_and_small(deliveries, endpoints, end_job):
    with receiver() as there:
        registered(endpoints, url=there.url, secret=ENCRYPTED)
        job = end_job(None)
        await until(lambda: delivery_states(deliveries) == [DELIVERED])

    (sent,) = there.received
    message = Webhook(SECRET).verify(sent.body, sent.headers)
    assert (message["type"], message["data"]["job_id"]) == ("job.succeeded", job)
    assert sent.headers["webhook-id"] == str(listed(deliveries)[0].id)
    assert sent.headers["content-type"] == "application/json"
    assert len(sent.body) < 20_000
    assert "http" not in sent.body.decode()
    assert attempts(deliveries)[0].status == 204


@pytest.mark.usefixtures("courier")
async def test_during_a_rotation_both_secrets_sign(endpoints, end_job):
    new = "whsec_" + "REVG" * 10
    with receiver() as there:
        endpoint = registered(endpoints, url=there.url, secret=ENCRYPTED)
        endpoints.rotate(ANN, endpoint.id, Vault(KEYS).encrypt(new), timedelta(hours=1))
        end_job(None)
        await until(lambda: there.received)

    for secret in (SECRET, new):
        Webhook(secret).verify(there.received[0].body, there.received[0].headers)


@pytest.mark.usefixtures("courier")
async def test_a_receiver_that_fails_for_a_while_gets_the_event_later(deliveries, end_job, due):
    with receiver(in_turn(status(500), status(503), status(204))) as there:
        end_job(there.url)
        for times in (1, 2, 3):
            await until_attempted(deliveries, times)
            due()
        await until(lambda: delivery_states(deliveries) == [DELIVERED])

    assert [each.status for each in attempts(deliveries)] == [500, 503, 204]
    assert len(set(there.ids)) == 1


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
@pytest.mark.usefixtures("courier")
async def test_each_status_of_success_ends_a_delivery(deliveries, end_job, code):
    with receiver(status(code)) as there:
        end_job(there.url)
        await until(lambda: delivery_states(deliveries) == [DELIVERED])


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.usefixtures("courier")
async def test_a_redirect_is_a_failure_and_is_not_followed(deliveries, end_job, code):
    with receiver() as elsewhere, receiver(status(code, Location=elsewhere.url)) as there:
        end_job(there.url)
        attempt = await until_attempted(deliveries)

    assert (attempt.status, delivery_states(deliveries), elsewhere.received) == (code, [WAITING], [])


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.usefixtures("courier")
async def test_retry_after_delays_the_next_attempt(deliveries, end_job, database, code):
    with receiver(status(code, Retry_After="3600")) as there:
        end_job(there.url)
        await until_attempted(deliveries)

    (delivery,) = listed(deliveries)
    pause = delivery.next_at - database.execute("SELECT now()").fetchone()[0]
    assert 3_500 < pause.total_seconds() <= 1.2 * 3_600


@pytest.mark.usefixtures("courier")
async def test_a_retry_after_counts_only_with_a_status_that_means_later(deliveries, end_job, database):
    with receiver(status(500, Retry_After="3600")) as there:
        end_job(there.url)
        await until_attempted(deliveries)

    (delivery,) = listed(deliveries)
    assert (delivery.next_at - database.execute("SELECT now()").fetchone()[0]).total_seconds() <= 6


@pytest.mark.parametrize("header", ["soon", "-5", "1e9", "99999999999999999999", "Fri, 01 Jan 2100 00:00:00 GMT", "²"])
@pytest.mark.usefixtures("courier")
async def test_a_retry_after_that_is_no_number_is_ignored(deliveries, end_job, database, header):
    with receiver(status(503, Retry_After=header.encode().decode("latin-1"))) as there:
        end_job(there.url)
        await until_attempted(deliveries)

    (delivery,) = listed(deliveries)
    assert (delivery.next_at - database.execute("SELECT now()").fetchone()[0]).total_seconds() <= 6


@pytest.mark.usefixtures("courier")
async def test_a_receiver_that_is_gone_disables_its_endpoint(deliveries, endpoints, letters, end_job):
    with receiver(status(410)) as there:
        endpoint = registered(endpoints, url=there.url, secret=ENCRYPTED)
        end_job(None)
        await until(lambda: delivery_states(deliveries) == [FAILED])

    assert not endpoints.get(ANN, endpoint.id).enabled
    assert letters.counts()["waiting"] == 1


@pytest.mark.usefixtures("courier")
async def test_a_receiver_that_cuts_the_connection_is_tried_again(deliveries, end_job):
    with receiver(cut) as there:
        end_job(there.url)
        attempt = await until_attempted(deliveries)

    assert (attempt.status, attempt.error, delivery_states(deliveries)) == (None, "connection_failed", [WAITING])


@pytest.mark.usefixtures("courier")
async def test_a_dead_receiver_is_tried_again(deliveries, end_job):
    end_job(f"http://127.0.0.1:{free_port()}/")
    attempt = await until_attempted(deliveries)

    assert (attempt.error, delivery_states(deliveries)) == ("connection_failed", [WAITING])


@pytest.mark.usefixtures("courier")
async def test_a_slow_receiver_fails_after_fifteen_seconds(deliveries, end_job):
    with receiver(dripping) as there:
        end_job(there.url)
        began = time.monotonic()
        attempt = await until_attempted(deliveries)

    assert attempt.error == "answer_timed_out"
    assert attempt.ms > 14_000
    assert time.monotonic() - began > 14


@pytest.mark.parametrize("answer", [endless, dripping_body])
@pytest.mark.usefixtures("courier")
async def test_the_status_counts_although_the_body_does_not_end(deliveries, end_job, answer):
    with receiver(answer) as there:
        end_job(there.url)
        await until(lambda: delivery_states(deliveries) == [DELIVERED])

    (attempt,) = attempts(deliveries)
    assert attempt.status == 200
    assert attempt.answer is not None
    assert set(attempt.answer) == {"x"}
    assert len(attempt.answer) <= 2_048


@pytest.mark.usefixtures("courier")
async def test_the_first_bytes_of_an_answer_are_kept_as_text(deliveries, end_job):
    with receiver(status(500, b"not \xff now\0!" + b"y" * 10_000)) as there:
        end_job(there.url)
        attempt = await until_attempted(deliveries)

    assert attempt.answer.startswith("not \ufffd now\ufffd!yyy")
    assert len(attempt.answer) == 2_048


@pytest.mark.usefixtures("courier")
async def test_a_certificate_that_nobody_trusts_is_refused(deliveries, end_job, tmp_path):
    with receiver(tls=self_signed(tmp_path)) as there:
        end_job(there.url)
        attempt = await until_attempted(deliveries)

    assert (attempt.error, there.received) == ("tls_failed", [])


async def test_a_private_address_is_not_reached_without_the_setting(start, deliveries, end_job):
    async with start(allow_private=False):
        with receiver() as there:
            end_job(there.url.replace("127.0.0.1", "localhost"))
            attempt = await until_attempted(deliveries)

    assert (attempt.error, there.received) == ("address_blocked", [])
    assert attempt.answer == "localhost has an address to which this service does not connect"


@pytest.mark.usefixtures("courier")
async def test_a_process_job_sends_the_body_of_the_first_pixtools(end_job):
    with receiver() as there:
        job = end_job(there.url, is_process=True)
        await until(lambda: there.received)

    body = json.loads(there.received[0].body)
    assert body.keys() == {"job_id", "status", "result_urls"}
    assert (body["job_id"], body["status"], list(body["result_urls"])) == (job, "COMPLETED", ["a"])
    assert "X-Amz-Signature" in body["result_urls"]["a"]


@pytest.mark.usefixtures("courier")
async def test_the_body_of_the_first_pixtools_has_no_file_that_its_client_did_not_ask_for(store):
    steps = {"a-full-size": ("source",), "a": ("source",)}
    with receiver() as there:
        submit(store, new_job(steps, webhook_url=there.url, is_process=True))
        finish(store, claim(store), *steps, settle=True)
        await until(lambda: there.received)

    assert list(json.loads(there.received[0].body)["result_urls"]) == ["a"]


@pytest.mark.usefixtures("courier")
async def test_an_endpoint_can_ask_for_download_urls(endpoints, end_job):
    with receiver() as there:
        registered(endpoints, url=there.url, include_urls=True, secret=ENCRYPTED)
        end_job(None)
        await until(lambda: there.received)

    assert list(json.loads(there.received[0].body)["data"]["urls"]) == ["a"]


@pytest.mark.usefixtures("courier")
async def test_a_secret_that_cannot_be_read_is_tried_again(deliveries, endpoints, end_job):
    with receiver() as there:
        registered(endpoints, url=there.url)  # its secret is not encrypted
        end_job(None)
        attempt = await until_attempted(deliveries)

    assert (attempt.error, there.received) == ("webhook_secret_unreadable", [])


# Many deliveries


async def test_a_hint_wakes_the_courier(start, end_job, monkeypatch):
    monkeypatch.setattr(courier_module, "_POLL_S", 30.0)
    async with start() as running:
        await asyncio.sleep(0.5)
        with receiver() as there:
            end_job(there.url)
            await running._hints.publish(DELIVERIES, "")
            await until(lambda: there.received, within_s=10)


@pytest.mark.usefixtures("courier")
async def test_five_failures_open_the_circuit_and_spend_no_more_attempts(deliveries, end_job, valkey):
    with receiver(status(500)) as there:
        for _ in range(30):
            end_job(there.url)
        await until(lambda: valkey.keys("pixtools:circuit:*"))
        await until(lambda: sum(each.failures for each in listed(deliveries)) >= 5)
        await asyncio.sleep(2)

    # At most eight attempts are open at once, so up to seven more may have begun before the fifth failed.
    assert 5 <= len(there.received) <= 12
    assert sum(each.failures for each in listed(deliveries)) == len(there.received)
    assert set(delivery_states(deliveries)) == {WAITING}


async def test_one_probe_at_a_time_over_two_couriers(start, end_job, database, valkey):
    with receiver(status(500, after_s=0.3)) as there:
        for _ in range(20):
            end_job(there.url)
        async with AsyncExitStack() as stack:
            couriers = [await stack.enter_async_context(start(name)) for name in ("c0", "c1")]
            await until(lambda: len(there.received) >= 5)
            await asyncio.sleep(1)
            before = len(there.received)
            there.most_at_once = 0
            for number in range(1, 5):  # each time, the minute of the open circuit is over
                for courier in couriers:
                    courier._closed_until.clear()
                for name in valkey.keys("pixtools:circuit:*"):
                    valkey.hset(name, "opened_at", "1")
                database.execute("UPDATE delivery SET next_at = now() WHERE state = 'waiting'")
                await until(lambda number=number: len(there.received) == before + number)
                await asyncio.sleep(0.6)  # until the probe has failed, and a second one would have arrived
            assert there.most_at_once == 1
            assert len(there.received) == before + 4


async def test_after_a_good_probe_everything_flows(start, deliveries, end_job, database, valkey):
    with receiver(status(500)) as there:
        for _ in range(20):
            end_job(there.url)
        async with start() as courier:
            await until(lambda: [valkey.hget(name, "state") for name in valkey.keys("pixtools:circuit:*")] == ["open"])
            await courier.retire(10)  # a cancelled attempt would fail with a pause, or leave a claim in a thread
            await asyncio.wait_for(courier.ended.wait(), 20)
            there.answer = status(204)

        for name in valkey.keys("pixtools:circuit:*"):
            valkey.hset(name, "opened_at", "1")
        database.execute("UPDATE delivery SET next_at = now() WHERE state = 'waiting'")
        async with start():
            await until(lambda: Counter(delivery_states(deliveries)) == {DELIVERED: 20})


@pytest.mark.usefixtures("courier")
async def test_a_slow_destination_takes_eight_places_and_no_more(end_job):
    with receiver(status(204, after_s=5)) as slow, receiver() as fast:
        for _ in range(20):
            end_job(slow.url)
        await until(lambda: slow.received)
        for _ in range(20):
            end_job(fast.url)
        await until(lambda: len(fast.received) == 20)
        assert len(slow.received) < 20  # the fast ones did not wait for the slow ones
        await until(lambda: len(slow.received) == 20, within_s=60)

    assert slow.most_at_once <= 8


# Couriers that die


async def test_a_courier_that_dies_between_the_post_and_the_record_sends_the_event_again(
    start, pool, deliveries, end_job, due
):
    class Deaf(DeliveryStore):
        def record(self, attempts):  # noqa: ARG002 (the courier dies before the database gets the result)
            time.sleep(30)

    with receiver() as there:
        end_job(there.url)
        async with start("c0", store=Deaf(pool)):
            await until(lambda: there.received)
        async with start("c0"):
            await until(lambda: len(attempts(deliveries)) == 1)
            due()
            await until(lambda: delivery_states(deliveries) == [DELIVERED])

    assert len(there.ids) == 2
    assert len(set(there.ids)) == 1
    assert [each.error for each in attempts(deliveries)] == ["courier_lost", None]


async def test_a_retired_courier_takes_nothing_more_and_ends(start, deliveries, end_job):
    async with start() as running:
        with receiver(status(204, after_s=0.5)) as there:
            end_job(there.url)
            await until(lambda: there.received)
            await running.retire(20)
            end_job(there.url)
            async with asyncio.timeout(10):
                await running.ended.wait()
            assert sorted(delivery_states(deliveries)) == [DELIVERED, WAITING]
            assert len(there.received) == 1


async def test_a_courier_that_retires_during_a_claim_sends_what_it_gets(start, pool, deliveries, end_job):
    claiming = threading.Event()

    class Slow(DeliveryStore):
        def claim(self, *arguments):
            found = super().claim(*arguments)
            if found[0]:
                claiming.set()
                time.sleep(0.5)
            return found

    with receiver() as there:
        async with start(store=Slow(pool)) as running:
            end_job(there.url)
            await until(claiming.is_set)
            await running.retire(20)
            async with asyncio.timeout(10):
                await running.ended.wait()
            assert delivery_states(deliveries) == [DELIVERED]


async def test_the_first_claim_after_a_long_outage_is_sent(start, pool, deliveries, end_job):
    class Away(DeliveryStore):
        times = 0

        def claim(self, *arguments):
            if Away.times < 3:
                Away.times += 1
                raise DatabaseDown("away")
            return super().claim(*arguments)

    with receiver() as there:
        end_job(there.url)
        async with start(store=Away(pool), clock=lambda: time.monotonic() + 40 * Away.times):
            await until(lambda: delivery_states(deliveries) == [DELIVERED])
    assert len(there.received) == 1


async def test_a_delivery_that_waited_too_long_for_the_database_is_not_sent(start, deliveries, end_job, monkeypatch):
    of, late_s = WebhookBodies.of, [0]

    def slow(bodies, claimed):
        late_s[0] = 40
        return of(bodies, claimed)

    monkeypatch.setattr(WebhookBodies, "of", slow)
    with receiver() as there:
        end_job(there.url)
        async with start(clock=lambda: time.monotonic() + late_s[0]) as running:
            await until(lambda: delivery_states(deliveries) == [DeliveryState.SENDING])
            await until(lambda: not running._sending)
    assert there.received == []


async def test_a_database_that_is_away_delays_the_record_but_loses_nothing(start, settings, deliveries, end_job):
    class Away(DeliveryStore):
        times = 0

        def record(self, attempts):
            Away.times += 1
            if Away.times <= 2:
                raise DatabaseDown("away")
            return super().record(attempts)

    away = Database(settings)
    with receiver() as there:
        end_job(there.url)
        async with start(store=Away(away)):
            await until(lambda: delivery_states(deliveries) == [DELIVERED])
    away.close()

    assert len(there.received) == 1
