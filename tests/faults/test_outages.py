"""Postgres, Redis and S3 hurt while jobs run: the service says so, waits, and goes on."""

from __future__ import annotations

import time

import httpx
import psycopg
import pytest
import redis
from audit import Audit
from nemesis import every
from servers import Servers, wait_for
from stacks import running
from victims import dispatcher_called, frozen
from workload import Workload, one_avif

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(open_folder):
    servers = Servers(open_folder / "servers")
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def hurt(open_folder, servers):
    """A service of two dispatchers whose servers are ours to hurt."""
    with running(open_folder / "hurt", PIXTOOLS_DISPATCHERS="2", **servers.env) as stack:
        yield stack


@pytest.fixture(scope="module")
def audit(hurt, servers):  # noqa: ARG001 (the service makes the tables)
    with Audit(servers.database_url) as audit:
        yield audit


def parts_down(stack) -> set[str]:
    """Return what readyz says is down; the status says whether jobs can be accepted."""
    answer = httpx.get(f"{stack.base_url}/api/readyz", timeout=60)
    if answer.status_code == 200:
        return {name for name, state in answer.json().items() if state == "down"}
    assert answer.status_code == 503
    assert_asks_to_come_again(answer)
    return {fault["pointer"].removeprefix("/") for fault in answer.json()["errors"]}


def assert_asks_to_come_again(answer) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("how", ["away", "frozen"])
@pytest.mark.parametrize("name", ["database", "storage", "redis"])
def test_readyz_names_what_is_gone_and_jobs_go_on_when_it_returns(hurt, audit, servers, name, how):
    with Workload(hurt, audit, jobs=16, clients=2, pause=0.5, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 2)
        with getattr(servers, how)(name):
            wait_for(lambda: name in parts_down(hurt))
            asked = time.monotonic()
            answer = work.send_once()
            print(f"\n{name} {how}: new work was answered {answer.status_code} after {time.monotonic() - asked:.1f} s")
            if name == "redis":
                assert answer.status_code == 202
            else:
                assert_asks_to_come_again(answer)
            time.sleep(5)
            assert parts_down(hurt) == {name}
        returned = audit.now()
        wait_for(lambda: parts_down(hurt) == set())
        report = work.finish(f"{name} {how}")
    ends = "SELECT min(at - %s), max(at - %s) FROM faults.step_move WHERE became = 'succeeded' AND at > %s"
    print(
        "  after its return, a step succeeded after {} and the last one after {}".format(
            *audit.query(ends, [returned] * 3)[0]
        )
    )
    assert report.clean


def test_postgres_restarted_under_load(hurt, audit, servers):
    with Workload(hurt, audit, jobs=40, clients=4, pause=0.5) as work:
        for _ in range(3):
            time.sleep(3)
            servers.restart("database")
        for _ in range(2):
            time.sleep(3)
            servers.kill("database")
            servers.begin("database")
        assert work.finish("Postgres restarted 3 times and killed 2 times").clean


def test_connections_to_postgres_terminated_at_random(hurt, audit, servers):
    terminated = 0

    def terminate() -> None:
        nonlocal terminated
        with psycopg.connect(servers.database_url) as connection:
            terminated += len(connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND application_name NOT IN ('', 'faults')
                ORDER BY random() LIMIT 2
            """).fetchall())  # fmt: skip

    with Workload(hurt, audit, jobs=40, clients=4, pause=0.3) as work:
        with every(0.3, terminate):
            work.join()
            work.wait_until(("succeeded",), 30)
        report = work.finish("connections terminated at random")
    print(f"  {terminated} connections")
    assert report.clean
    assert terminated > 20


def test_redis_flushed_all_the_time(hurt, audit, servers):
    with (
        redis.Redis.from_url(servers.redis_url) as client,
        Workload(hurt, audit, jobs=30, clients=6) as work,
        every(0.5, client.flushall),
    ):
        report = work.finish("Redis flushed twice a second")
    assert report.clean


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"refused": 0.3}, id="503 to 30 %"),
        pytest.param({"delay": 2.0}, id="slow"),
        pytest.param({"cut": 0.3}, id="cut in the middle of 30 %"),
    ],
)
def test_s3_on_a_bad_day(hurt, audit, servers, how):
    with Workload(hurt, audit, jobs=20, clients=4) as work:
        with servers.proxy.behaving(**how):
            work.join()
            work.wait_until(("succeeded",), 12)
        assert work.finish(f"S3 {how}").clean


def test_the_disk_of_s3_is_full(hurt, audit, servers):
    if not servers.disk_is_small:
        pytest.skip("a small disk cannot be mounted here")
    with Workload(hurt, audit, jobs=12, clients=2, pause=0.5, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 2)
        with servers.full_disk():
            time.sleep(1)
            assert_asks_to_come_again(work.send_once())
            time.sleep(5)
        assert work.finish("the disk of S3 full").clean


def test_a_dispatcher_frozen_for_a_minute_comes_back_as_a_zombie(hurt, audit):
    with Workload(hurt, audit, jobs=12, steps=one_avif(4)) as work:
        work.wait_until(("succeeded",), 1)
        name, _ = work.wait_for_work()
        with frozen(dispatcher_called(hurt, audit, name)):
            time.sleep(60)
            held = audit.query("SELECT 1 FROM job WHERE dispatcher = %s AND state = 'running'", [name])
            assert held == [], "nobody took over what it held"
        assert work.finish("a dispatcher frozen for a minute").clean
