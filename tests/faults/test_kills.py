"""Processes are killed with SIGKILL while they work. Every accepted job succeeds, and no job ends twice."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from victims import CONVERTER, DISPATCHER, INGRESS, SWEEPER, find
from workload import Workload, one_avif

WAITING_FOR_THE_LOCK = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'idempotency'::regclass
    HAVING count(*) > 2  -- one of the waiting connections may belong to the sweeper
"""


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(CONVERTER, id="a converter"),
        pytest.param(DISPATCHER, id="the dispatcher"),
        pytest.param(SWEEPER, id="the sweeper"),
    ],
)
def test_all_jobs_survive_a_kill_of(stack, audit, victim):
    # These steps are not cheap. After a kill, a cheap step runs again in the same attempt.
    with Workload(stack, audit, jobs=20, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 2)
        killed = find(stack, victim)[0]
        killed.kill()
        report = work.finish(f"killed {victim}")
    assert report.clean
    assert killed not in find(stack, victim.removesuffix(".run")), "the process was not replaced"
    if victim != SWEEPER:
        assert max(job.attempt for job in work.jobs()) == 2, "no step was running at the kill"


@pytest.mark.slow  # because the key stays reserved in Redis for up to ten seconds after the kill
def test_a_client_whose_ingress_is_killed_before_the_commit_gets_one_job_by_repeating(stack, audit):
    with psycopg.connect(audit.url) as other:
        other.execute("LOCK TABLE idempotency IN SHARE MODE")  # blocks the insertion of keys, but not of jobs
        with Workload(stack, audit, jobs=6) as work:
            audit.wait(WAITING_FOR_THE_LOCK, timeout=30)
            assert work.jobs() == []
            find(stack, INGRESS)[0].kill()
            other.rollback()
            report = work.finish("killed the ingress before the commit")
    assert report.clean
    assert sum(work.answers.values()) > 6, "no request was waiting at the kill"


@pytest.mark.slow  # because the key stays reserved in Redis for up to ten seconds after the kill
def test_a_client_whose_ingress_is_killed_after_the_commit_gets_the_stored_response_by_repeating(stack, audit):
    with psycopg.connect(audit.url, autocommit=True) as other, Workload(stack, audit, jobs=30, clients=8) as work:
        other.execute("LISTEN faults")
        replica = find(stack, INGRESS)[0]
        accepted = 0
        for notice in other.notifies(timeout=60):
            accepted += notice.payload.startswith(work.prefix) and notice.payload.endswith("queued")
            if accepted == 10:
                replica.kill()
                break
        report = work.finish("killed the ingress after a commit")
        assert report.clean
        with httpx.Client(base_url=stack.base_url, timeout=30) as http:
            for name, job_id in work.acknowledged.items():
                answer = work.send(http, name)
                assert (answer.status_code, answer.json()["id"]) == (202, job_id)
                assert answer.headers["idempotency-replayed"] == "true"
