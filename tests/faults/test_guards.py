"""The guards of the job store are removed one by one. Each time, the check of the workload must find harmed jobs.

Each scenario also runs with all guards, and then no job may be harmed. Leases are short. So a dispatcher that is frozen
for a few seconds becomes a zombie: it has lost its jobs, but does not know this yet and continues them.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from audit import Audit
from stacks import running
from victims import SWEEPER, dispatcher_called, find, frozen
from workload import Workload, one_avif

pytestmark = pytest.mark.slow

TAKEN_OVER = """
    SELECT 1 FROM faults.step_move AS moved JOIN job ON job.id = moved.job
    WHERE source_name ~ %s AND moved.became = 'running' AND moved.attempt > 1 AND moved.by <> %s
"""


@pytest.fixture(scope="module")
def guards(open_folder):
    """The file with the name of the guard to remove. It is empty at first. See mutations/sitecustomize.py."""
    path = open_folder / "missing-guard"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def hasty(open_folder, guards):
    """A service with two dispatchers and short leases."""
    env = {"LEASE": "PT3S", "RENEW_INTERVAL": "PT1S", "SWEEP_INTERVAL": "PT1S", "DISPATCHERS": "2"}
    with running(
        open_folder / "hasty",
        PYTHONPATH=os.pathsep.join([str(Path(__file__).with_name("mutations")), str(Path(__file__).parents[2])]),
        FAULTS_MUTATION=str(guards),
        **{f"PIXTOOLS_{name}": value for name, value in env.items()},
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def hasty_audit(hasty):
    with Audit(hasty.env["PIXTOOLS_DATABASE_URL"]) as audit:
        yield audit


@contextmanager
def without(guard, guards, stack, audit):
    """Remove a guard until the block ends. Then wait until no job is queued or running."""
    guards.write_text(guard)
    yield
    guards.write_text("")
    deadline = time.monotonic() + 120
    while audit.query("SELECT 1 FROM job WHERE state IN ('queued', 'running')"):
        assert time.monotonic() < deadline, "the service did not recover"
        time.sleep(0.5)
    assert stack.process.poll() is None


def report_of_a_zombie(stack, audit, title):
    """Freeze a dispatcher with running steps until the other dispatcher has taken these steps over and runs them."""
    with Workload(stack, audit, jobs=4, steps=one_avif(speed=4)) as work:
        name, _ = work.wait_for_work()
        with frozen(dispatcher_called(stack, audit, name)):
            audit.wait(TAKEN_OVER, [work.prefix, name])
            time.sleep(1)
        return work.finish(title)


def report_of_a_killed_dispatcher(stack, audit, title, timeout):
    """Kill a dispatcher with running steps."""
    with Workload(stack, audit, jobs=6, steps=one_avif(speed=4)) as work:
        name, _ = work.wait_for_work()
        dispatcher_called(stack, audit, name).kill()
        return work.finish(title, timeout=timeout)


def report_of_long_steps(stack, audit, title):
    """Run steps that take longer than a lease."""
    with Workload(stack, audit, jobs=2, steps=one_avif(speed=2)) as work:
        return work.finish(title)


def report_of_requests_sent_twice(stack, audit, title):
    """Send all requests again, after Redis has lost the first answers."""
    with Workload(stack, audit, jobs=4) as work:
        work.join()
        with redis.Redis.from_url(stack.env["PIXTOOLS_REDIS_URL"]) as client:
            client.flushall()
        work.send_all_again()
        return work.finish(title)


def test_results_of_a_zombie_change_nothing(hasty, hasty_audit):
    assert report_of_a_zombie(hasty, hasty_audit, "a zombie").clean


def test_jobs_are_rescued_although_the_sweeper_is_killed_meanwhile(hasty, hasty_audit):
    with Workload(hasty, hasty_audit, jobs=4, steps=one_avif(speed=3)) as work:
        name, _ = work.wait_for_work()
        with frozen(dispatcher_called(hasty, hasty_audit, name)):
            for _ in range(3):
                find(hasty, SWEEPER)[0].kill()
                time.sleep(1)
            hasty_audit.wait(TAKEN_OVER, [work.prefix, name])
        assert work.finish("a zombie, and the sweeper killed 3 times").clean


def test_the_jobs_of_a_killed_dispatcher_are_rescued(hasty, hasty_audit):
    assert report_of_a_killed_dispatcher(hasty, hasty_audit, "a dispatcher killed", 120).clean


def test_a_step_may_take_longer_than_the_lease(hasty, hasty_audit):
    assert report_of_long_steps(hasty, hasty_audit, "long steps").clean


def test_a_repeated_request_makes_no_second_job(hasty, hasty_audit):
    assert report_of_requests_sent_twice(hasty, hasty_audit, "requests sent twice").clean


def test_without_the_check_of_the_attempt_a_zombie_ends_a_job_of_another_dispatcher(hasty, hasty_audit, guards):
    # This may need several tries, because the zombie must report its steps while the other dispatcher still runs them.
    for _ in range(3):
        with without("fence", guards, hasty, hasty_audit):
            report = report_of_a_zombie(hasty, hasty_audit, "a zombie, no check of the attempt")
        if report.duplicated:
            break
    assert report.duplicated > 0


def test_without_the_key_in_postgres_a_repeated_request_makes_a_second_job(hasty, hasty_audit, guards):
    with without("key", guards, hasty, hasty_audit):
        report = report_of_requests_sent_twice(hasty, hasty_audit, "requests sent twice, no key")
    assert report.duplicated == 4


def test_an_artifact_that_is_missing_in_s3_counts_as_a_loss(hasty, hasty_audit):
    with Workload(hasty, hasty_audit, jobs=2, steps=one_avif(speed=8)) as work:
        _, key = work.wait_for_work()
        work.wait_until(("succeeded",), 2)
        next((hasty.home / "s3").glob(f"*/artifacts/*/*/*/{key}-*.avif")).unlink()
        report = work.finish("a missing artifact")
    assert report.lost == 1


def test_without_rescue_the_jobs_of_a_killed_dispatcher_are_lost(hasty, hasty_audit, guards):
    with without("rescue", guards, hasty, hasty_audit):
        report = report_of_a_killed_dispatcher(hasty, hasty_audit, "a dispatcher killed, no rescue", 25)
    assert report.lost > 0


def test_without_renewal_a_long_step_is_rescued_too_often_and_its_job_is_lost(hasty, hasty_audit, guards):
    with without("renewal", guards, hasty, hasty_audit):
        report = report_of_long_steps(hasty, hasty_audit, "long steps, no renewal")
    assert report.lost > 0
