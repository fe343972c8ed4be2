"""Postgres, Redis or S3 fails while jobs run: the service reports the failure, waits, and continues the jobs."""

from __future__ import annotations

import time

import httpx
import psycopg
import pytest
import redis
from audit import Audit
from nemesis import every
from servers import Servers
from stacks import running
from victims import dispatcher_called, frozen
from waits import wait_for
from workload import Workload, one_avif

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(open_folder):
    servers = Servers(open_folder / "servers")
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def faulty(open_folder, servers):
    """A service with two dispatchers, on servers that the tests control."""
    with running(open_folder / "faulty", PIXTOOLS_DISPATCHERS="2", **servers.env) as stack:
        yield stack


@pytest.fixture(scope="module")
def audit(faulty, servers):  # noqa: ARG001 (the service creates the tables)
    with Audit(servers.database_url) as audit:
        yield audit


def parts_down(stack) -> set[str]:
    """Return the components that /api/readyz reports as down. If the service accepts no jobs, the status is 503."""
    answer = httpx.get(f"{stack.base_url}/api/readyz", timeout=60)
    if answer.status_code == 200:
        return {name for name, state in answer.json().items() if state == "down"}
    assert answer.status_code == 503
    assert_asks_to_retry_later(answer)
    return {fault["pointer"].removeprefix("/") for fault in answer.json()["errors"]}


def assert_asks_to_retry_later(answer) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("name", ["database", "storage", "redis"])
def test_readyz_names_the_store_that_is_down_and_jobs_continue_when_it_returns(faulty, audit, servers, name, how):
    with Workload(faulty, audit, jobs=16, clients=2, pause=0.5, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 2)
        with getattr(servers, how)(name):
            wait_for(lambda: name in parts_down(faulty))
            began = time.monotonic()
            answer = work.send_once()
            print(f"\n{name} {how}: a new request got {answer.status_code} after {time.monotonic() - began:.1f} s")
            if name == "redis":
                assert answer.status_code == 202
            else:
                assert_asks_to_retry_later(answer)
            time.sleep(5)
            assert parts_down(faulty) == {name}
        returned = audit.now()
        wait_for(lambda: parts_down(faulty) == set())
        report = work.finish(f"{name} {how}")
    ends = "SELECT min(at - %s), max(at - %s) FROM faults.step_move WHERE became = 'succeeded' AND at > %s"
    print(
        "  after the return of the server, the first step succeeded after {}, and the last step after {}".format(
            *audit.query(ends, [returned] * 3)[0]
        )
    )
    assert report.clean


def test_jobs_survive_restarts_of_postgres(faulty, audit, servers):
    with Workload(faulty, audit, jobs=40, clients=4, pause=0.5) as work:
        for _ in range(3):
            time.sleep(3)
            servers.restart("database")
        for _ in range(2):
            time.sleep(3)
            servers.kill("database")
            servers.start("database")
        assert work.finish("Postgres restarted 3 times and killed 2 times").clean


def test_jobs_survive_the_random_end_of_connections_to_postgres(faulty, audit, servers):
    terminated = 0

    def terminate() -> None:
        nonlocal terminated
        with psycopg.connect(servers.database_url) as connection:
            terminated += len(connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND application_name NOT IN ('', 'faults')
                ORDER BY random() LIMIT 2
            """).fetchall())  # fmt: skip

    with Workload(faulty, audit, jobs=40, clients=4, pause=0.3) as work:
        with every(0.3, terminate):
            work.join()
            work.wait_until(("succeeded",), 30)
        report = work.finish("connections terminated at random")
    print(f"  {terminated} connections")
    assert report.clean
    assert terminated > 20


def test_jobs_survive_flushes_of_redis(faulty, audit, servers):
    with (
        redis.Redis.from_url(servers.redis_url) as client,
        Workload(faulty, audit, jobs=30, clients=6) as work,
        every(0.5, client.flushall),
    ):
        report = work.finish("Redis flushed twice a second")
    assert report.clean


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"refused": 0.3}, id="30 % refused"),
        pytest.param({"delay": 2.0}, id="slow"),
        pytest.param({"cut": 0.3}, id="30 % cut"),
    ],
)
def test_jobs_survive_failures_of_s3(faulty, audit, servers, how):
    with Workload(faulty, audit, jobs=20, clients=4) as work:
        with servers.proxy.behaving(**how):
            work.join()
            work.wait_until(("succeeded",), 12)
        assert work.finish(f"S3 {how}").clean


def test_jobs_survive_a_full_disk_of_s3(faulty, audit, servers):
    if not servers.disk_is_small:
        pytest.skip("a small disk cannot be mounted here")
    with Workload(faulty, audit, jobs=12, clients=2, pause=0.5, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 2)
        with servers.full_disk():
            time.sleep(1)
            assert_asks_to_retry_later(work.send_once())
            time.sleep(5)
        assert work.finish("full disk of S3").clean


def test_a_dispatcher_frozen_for_a_minute_loses_its_jobs_and_harms_none(faulty, audit):
    with Workload(faulty, audit, jobs=12, steps=one_avif(4)) as work:
        work.wait_until(("succeeded",), 1)
        name, _ = work.wait_for_work()
        with frozen(dispatcher_called(faulty, audit, name)):
            time.sleep(60)
            held = audit.query("SELECT 1 FROM job WHERE dispatcher = %s AND state = 'running'", [name])
            assert held == [], "the jobs of the frozen dispatcher were not rescued"
        assert work.finish("a dispatcher frozen for a minute").clean
