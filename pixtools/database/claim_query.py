"""The statement that takes the next jobs from the queue, so that all owners share the converters."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, Interval, Uuid, bindparam, column, func, text, update
from sqlmodel import col

from pixtools.database.rows import JOB
from pixtools.database.tables import Job
from pixtools.database.transitions import job_may_become
from pixtools.jobs.records import JobRecord
from pixtools.states import JobState

_SPARE = 50  # further candidates, because other transactions may have locked some of the candidates

# The place of a job is the number of running jobs of its owner plus the position of the job in the queue of its owner.
# Jobs with the lowest place come first, and among these the job that became available first.
#
# - `head` finds the first queued job of each owner with one index probe per owner. Without this recursion, Postgres
#   would read the whole queue to find the owners.
# - `owner_in_turn` keeps the owners whose first job comes early. If an owner is not among the first `candidates`
#   owners, then none of its jobs is among the first `candidates` jobs.
# - The last SELECT locks the jobs in order, skips jobs that other transactions have locked, and stops at `max_jobs`. It
#   repeats the conditions, because Postgres checks them again for a job that changed since the query began.
_NEXT_JOBS = """
WITH RECURSIVE head AS (
    (SELECT owner, available_at FROM job WHERE state = 'queued' ORDER BY owner, available_at LIMIT 1)
    UNION ALL
    SELECT following.owner, following.available_at
    FROM head CROSS JOIN LATERAL (
        SELECT owner, available_at FROM job
        WHERE state = 'queued' AND owner > head.owner ORDER BY owner, available_at LIMIT 1
    ) AS following
),
busy AS (
    SELECT owner, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY owner
),
owner_in_turn AS (
    SELECT head.owner, coalesce(busy.jobs, 0) AS running
    FROM head LEFT JOIN busy ON busy.owner = head.owner
    WHERE head.available_at <= now()
    ORDER BY running, head.available_at LIMIT :candidates
),
candidate AS (
    SELECT waiting.id, waiting.available_at, owner_in_turn.running + waiting.position AS place
    FROM owner_in_turn CROSS JOIN LATERAL (
        SELECT id, available_at, row_number() OVER (ORDER BY available_at) AS position FROM job
        WHERE state = 'queued' AND owner = owner_in_turn.owner AND available_at <= now()
        ORDER BY available_at LIMIT :candidates
    ) AS waiting
    ORDER BY place, available_at LIMIT :candidates
)
SELECT job.id FROM candidate JOIN job ON job.id = candidate.id
WHERE job.state = 'queued' AND job.available_at <= now()
ORDER BY candidate.place, candidate.available_at LIMIT :max_jobs
FOR UPDATE OF job SKIP LOCKED
"""


_queued = text(_NEXT_JOBS).columns(column("id", Uuid)).cte("queued")
# `queued` is a CTE because a CTE runs once. Postgres may run a subquery once for each row, which would take more jobs
# than `max_jobs`. The transaction holds the locks of these jobs.
_CLAIM = (
    update(Job)
    .where(col(Job.id) == _queued.c.id, job_may_become(JobState.RUNNING))
    .values(
        state=JobState.RUNNING,
        attempt=Job.attempt + 1,
        written=0,
        dispatcher=bindparam("dispatcher"),
        lease_until=func.now() + bindparam("lease", type_=Interval()),
        started_at=func.coalesce(Job.started_at, func.now()),
        version=Job.version + 1,
    )
    .returning(*JOB.columns)
)


def take_next_jobs(connection: Connection, dispatcher: str, limit: int, lease: timedelta) -> list[JobRecord]:
    """Move at most `limit` queued jobs to the state running. Each gets a lease and starts its next attempt."""
    values = {"dispatcher": dispatcher, "lease": lease, "candidates": limit + _SPARE, "max_jobs": limit}
    return [JOB.record(row) for row in connection.execute(_CLAIM, values)]
