"""The whole service ends while jobs run, for a different reason in each test. The next start finishes all jobs."""

from __future__ import annotations

import os
import signal

import pytest
from audit import Audit
from stacks import running
from victims import raylet
from workload import Workload, one_avif

pytestmark = pytest.mark.slow

COUNTED = """
    SELECT sum(job.crashes), sum(step.crashes), sum(failures) FROM job JOIN step ON id = job_id
    WHERE source_name ~ %s
"""


@pytest.fixture(scope="module")
def mortal(open_folder):
    with running(open_folder / "mortal", PIXTOOLS_DRAIN_TIMEOUT="2") as stack:
        yield stack


@pytest.fixture
def audit(mortal):
    with Audit(mortal.env["PIXTOOLS_DATABASE_URL"]) as audit:
        yield audit


def start_again(stack, audit) -> None:
    """Start the service again, and let the audit use the new port of the database."""
    stack.wait_until_gone()
    stack.launch("--parent", str(os.getpid()))
    stack.wait_until_ready()
    audit.url = stack.env["PIXTOOLS_DATABASE_URL"]
    audit.connection.close()


def test_all_jobs_survive_a_kill_of_everything(mortal, audit):
    with Workload(mortal, audit, jobs=40, clients=3, pause=0.7) as work:
        work.wait_until(("succeeded",), 3)
        mortal.kill()
        mortal.process.wait(60)
        start_again(mortal, audit)
        report = work.finish("everything killed at once")
    assert report.clean
    assert max(job.attempt for job in work.jobs()) == 2, "no step was running at the kill"


def test_all_jobs_survive_a_kill_of_the_raylet_without_repeated_requests(mortal, audit):
    with Workload(mortal, audit, jobs=200, clients=4, pause=0.3) as work:
        work.wait_until(("succeeded",), 3)
        raylet(mortal).kill()
        work.give_up()
        report = work.finish("the raylet killed")
    assert "ray works again" in mortal.output
    assert report.clean
    assert report.acknowledged + report.recovered == len(work.jobs())


def test_sigterm_with_long_jobs_running_counts_no_crash(mortal, audit):
    with Workload(mortal, audit, jobs=4, steps=one_avif(3)) as work:
        work.join()
        work.wait_for_work()
        mortal.process.send_signal(signal.SIGTERM)
        assert mortal.process.wait(60) == 0
        start_again(mortal, audit)
        report = work.finish("SIGTERM with long jobs running", stopped=True)
    assert report.clean
    assert max(job.attempt for job in work.jobs()) == 2, "no step was running at the stop"
    assert audit.query(COUNTED, [work.prefix]) == [(0, 0, 0)]
