"""Measures the time from a SIGKILL to the next attempt of the same step, according to the clock of the database."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from victims import CONVERTER, DISPATCHER, find
from workload import Workload, one_avif

pytestmark = pytest.mark.slow

KILLS = 30
NEXT_ATTEMPT = """
    SELECT extract(epoch FROM min(at) - %s)::float FROM faults.step_move
    WHERE job = %s AND became = 'running' AND attempt > 1 HAVING count(*) > 0
"""


@pytest.mark.parametrize(
    ("victim", "limit_s"),
    [pytest.param(CONVERTER, 3.0, id="a converter"), pytest.param(DISPATCHER, 40.0, id="the dispatcher")],
)
def test_the_next_attempt_begins_soon_after_a_kill_of(stack, audit, victim, limit_s):
    """Each kill has its own job, because a step fails permanently after its third crash."""
    times = []
    with Workload(stack, audit, jobs=0, steps=one_avif(5)) as work:
        for _ in range(KILLS):
            job = work.send_once().json()["id"]
            audit.wait("SELECT 1 FROM step WHERE job_id = %s AND state = 'running'", [job])
            time.sleep(random.uniform(0, 0.3))
            process = find(stack, victim)[0]
            killed = audit.now()
            process.kill()
            times.append(audit.wait(NEXT_ATTEMPT, [killed, job])[0][0])
            audit.wait("SELECT 1 FROM job WHERE id = %s AND state = 'succeeded'", [job])
        report = work.finish(f"{KILLS} kills of {victim}")
    p50, p99, longest = np.percentile(times, [50, 99, 100])
    print(f"  next attempt after p50 {p50:.2f} s, p99 {p99:.2f} s, max {longest:.2f} s")
    assert report.clean
    assert p99 <= limit_s
