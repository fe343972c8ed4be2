"""The dispatcher is killed before or after the commit of a step. The artifact is neither lost nor recorded twice."""

from __future__ import annotations

import time

import psycopg
from victims import DISPATCHER, find
from workload import Workload, one_avif


def test_a_dispatcher_killed_between_put_and_commit_costs_one_attempt(stack, audit):
    with psycopg.connect(audit.url) as other, Workload(stack, audit, jobs=1, steps=one_avif(5)) as work:
        dispatcher, key = work.wait_for_work()
        other.execute("SELECT FROM job WHERE source_name ~ %s FOR UPDATE", [work.prefix])
        audit.wait("SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN "
                   "(SELECT pid FROM pg_stat_activity WHERE application_name = %s)", [dispatcher])  # fmt: skip
        deadline = time.monotonic() + 120
        while not list((stack.home / "s3").glob(f"*/artifacts/*/*/*/{key}-*.avif")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert work.count("running") == 1
        find(stack, DISPATCHER)[0].kill()
        other.rollback()
        report = work.finish("killed the dispatcher between the put and the commit")
    assert report.clean
    assert [job.attempt for job in work.jobs()] == [2], "the step was committed before the kill"


def test_a_dispatcher_killed_right_after_a_commit_costs_no_attempt(stack, audit):
    with psycopg.connect(audit.url, autocommit=True) as other, Workload(stack, audit, jobs=6) as work:
        other.execute("LISTEN faults")
        dispatcher = find(stack, DISPATCHER)[0]
        for notice in other.notifies(timeout=60):
            name, state = notice.payload.split(" ")
            if name.startswith(work.prefix) and state == "succeeded":
                dispatcher.kill()
                break
        report = work.finish("killed the dispatcher right after a commit")
    assert report.clean
    assert audit.jobs(work.prefix)[name][0].attempt == 1
