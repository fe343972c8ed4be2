"""Couriers, Postgres and Redis fail while 500 jobs end: each receiver gets each event at least once.

The check reports:

    ended       jobs that have ended
    events      deliveries in the database
    lost        events that a receiver never got
    unexpected  ids that a receiver got, but that are no delivery to it
    duplicated  requests in addition to the first one of each event: after a crash they are allowed
    moved_back  deliveries that changed after they had been delivered: no process may do this
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import httpx
import psutil
import pytest
import redis
from audit import Audit
from nemesis import every
from receivers import receiver, status
from servers import Servers
from stacks import running
from victims import COURIER, find, frozen
from workload import Workload, photo

from pixtools.local.ports import free_port

pytestmark = pytest.mark.slow

WEBP = {"web": {"op": "webp", "input": "source"}}
SMALL = photo(64, 48)
ENV = {
    "PIXTOOLS_WEBHOOK_KEYS": "k" * 32,
    "PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS": "1",
    "PIXTOOLS_COURIERS": "2",
    "PIXTOOLS_MAX_QUEUED_JOBS": "100000",
}


@dataclass
class Report:
    """The result of the check. The docstring of the module describes the fields."""

    ended: int = 0
    events: int = 0
    lost: int = 0
    unexpected: int = 0
    duplicated: int = 0
    moved_back: int = 0
    states: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())

    def is_clean(self, receivers: int) -> bool:
        """Whether each ended job has one event for each receiver, and nothing was lost or changed afterwards."""
        return (
            self.events == self.ended * receivers == self.states["delivered"]
            and self.lost == self.unexpected == self.moved_back == 0
        )


@pytest.fixture(scope="module")
def servers(open_folder):
    servers = Servers(open_folder / "servers")
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def guard(open_folder):
    """The file with the name of the guard to remove. It is empty at first. See mutations/sitecustomize.py."""
    path = open_folder / "missing-guard"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def stack(open_folder, servers, guard):
    """A service with two couriers, on servers that the tests control."""
    path = [str(Path(__file__).with_name("mutations")), str(Path(__file__).parents[2])]
    with running(
        open_folder / "hooked", PYTHONPATH=os.pathsep.join(path), FAULTS_MUTATION=str(guard), **ENV, **servers.env
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def audit(stack, servers):  # noqa: ARG001 (the service creates the tables)
    with Audit(servers.database_url) as audit:
        yield audit


@contextmanager
def endpoints(stack, *receivers):
    """Register the receivers, and wait until couriers run. Delete the endpoints at the end."""
    with httpx.Client(base_url=stack.base_url, timeout=60) as http:
        made = [http.post("/api/webhooks", json={"url": each.url}).raise_for_status().json() for each in receivers]
        find(stack, COURIER, timeout=60)
        yield made
        for each in made:
            http.delete(f"/api/webhooks/{each['id']}").raise_for_status()


def kill_couriers(stack) -> None:
    for process in find(stack, COURIER, timeout=60):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def finish(title, work, audit, receivers, timeout=240) -> Report:
    """Wait until all jobs have ended and all their events are delivered. Check them, and print the report."""
    work.join()
    work.wait_until(("succeeded",), len(work.acknowledged), timeout)
    deadline = time.monotonic() + timeout
    mine = "FROM delivery JOIN job ON job.id = delivery.job_id WHERE source_name ~ %s"
    prefix = [f"^{work.prefix}-"]
    while (
        open_ := audit.query(f"SELECT count(*) {mine} AND delivery.state IN ('waiting', 'sending')", prefix)[0][0]
    ) and (time.monotonic() < deadline):
        # The clock is under control: attempts that would follow in minutes or hours follow now.
        audit.connection.execute("UPDATE delivery SET next_at = now() WHERE state = 'waiting' AND next_at > now()")
        time.sleep(1)
    report = Report(ended=len(work.jobs()))
    rows = audit.query(f"SELECT delivery.id::text, delivery.url, delivery.state {mine}", prefix)
    report.events, report.states = len(rows), Counter(state for *_, state in rows)
    for each in receivers:
        expected, got = {job for job, url, _ in rows if url == each.url}, Counter(each.ids)
        report.lost += len(expected - got.keys())
        report.unexpected += len(got.keys() - expected)
        report.duplicated += got.total() - len(got)
    report.moved_back = len(
        audit.query("SELECT 1 FROM faults.delivery_move WHERE was = 'delivered' AND delivery::text = ANY(%s)",
                    [[job for job, *_ in rows]])
    )  # fmt: skip
    print(f"\n{title}: {report} open={open_}")
    return report


def test_no_event_is_lost_while_everything_fails(stack, audit, servers):
    kills, requests = [], Counter()

    def answer_and_kill(request) -> None:
        requests["all"] += 1
        if requests["all"] in (40, 200, 400):  # between the request and the record of its answer
            kills.append(time.monotonic())
            kill_couriers(stack)
        status(204)(request)

    with receiver(answer_and_kill) as first, receiver() as second, endpoints(stack, first, second):
        with (
            Workload(stack, audit, jobs=500, clients=4, steps=WEBP, picture=SMALL, pause=0.1) as work,
            redis.Redis.from_url(servers.redis_url) as client,
            every(3, client.flushall),
        ):
            time.sleep(4)
            servers.restart("database")
            time.sleep(4)
            with frozen(find(stack, COURIER)[0]):
                time.sleep(65)  # longer than the lease of a delivery
            servers.kill("database")
            servers.start("database")
        report = finish("couriers killed and frozen, Postgres restarted, Redis flushed", work, audit, [first, second])

    assert len(kills) == 3
    assert report.ended == 500
    assert report.is_clean(receivers=2)


def p95_of_eight(stack, audit, *others: str) -> float:
    """Send 100 events to each of eight good receivers and to `others`. Return the 95th percentile of the good ones.

    The latency of an event is the time from the transaction that ended its job until the request arrived, in seconds.
    """
    with ExitStack() as opened:
        good = [opened.enter_context(receiver()) for _ in range(8)]
        http = opened.enter_context(httpx.Client(base_url=stack.base_url, timeout=60))
        urls = [*(each.url for each in good), *others]
        made = [http.post("/api/webhooks", json={"url": url}).raise_for_status().json()["id"] for url in urls]
        find(stack, COURIER, timeout=60)
        with Workload(stack, audit, jobs=100, clients=2, steps=WEBP, picture=SMALL, pause=0.05) as work:
            work.join()
            work.wait_until(("succeeded",), 100)
        deadline = time.monotonic() + 60
        while any(len(each.received) < 100 for each in good):
            assert time.monotonic() < deadline, [len(each.received) for each in good]
            time.sleep(0.1)
        written = dict(audit.query("SELECT id::text, extract(epoch FROM created_at)::float FROM delivery"))
        for each in made:
            http.delete(f"/api/webhooks/{each}").raise_for_status()
    latencies = [one.at - written[one.headers["webhook-id"]] for each in good for one in each.received]
    return quantiles(latencies, n=20)[-1]


def test_a_dead_and_a_slow_receiver_do_not_delay_the_others(stack, audit):
    with receiver() as one, receiver() as two, receiver(status(204, after_s=10)) as slow:
        before = p95_of_eight(stack, audit, one.url, two.url)
        beside = p95_of_eight(stack, audit, f"http://127.0.0.1:{free_port()}/", slow.url)
    print(f"\np95 of eight receivers: {before:.3f} s, beside a dead and a slow one {beside:.3f} s")

    assert beside <= 1.1 * before + 0.2


def test_without_the_row_in_the_outbox_events_are_lost(stack, audit, guard):
    with receiver() as there, endpoints(stack, there):
        guard.write_text("outbox")
        with Workload(stack, audit, jobs=20, clients=2, steps=WEBP, picture=SMALL) as work:
            report = finish("no row in the outbox", work, audit, [there], timeout=60)
        guard.write_text("")

    assert not report.is_clean(receivers=1)
    assert report.events < report.ended


def test_without_the_check_of_the_attempt_a_zombie_changes_a_delivered_event(stack, audit, guard):
    """A courier is frozen during its request. Then its result arrives after another courier has delivered the event."""
    slow = status(500, after_s=3)
    with receiver(slow) as there, endpoints(stack, there):
        guard.write_text("delivery fence")
        with Workload(stack, audit, jobs=4, clients=2, steps=WEBP, picture=SMALL) as work:
            work.join()
            deadline = time.monotonic() + 60
            while len(there.received) < 4:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            couriers = find(stack, COURIER)
            for each in couriers:
                each.suspend()
            # Another courier would take the deliveries over after a minute, and deliver them.
            audit.connection.execute(
                "UPDATE delivery SET state = 'delivered', attempt = attempt + 1 WHERE state = 'sending'"
            )
            for each in couriers:
                each.resume()
            there.answer = status(204)
            audit.wait("SELECT 1 FROM faults.delivery_move WHERE was = 'delivered'")
            report = finish("no check of the attempt", work, audit, [there], timeout=60)
        guard.write_text("")

    assert report.moved_back > 0
