"""Compares the statements of the job store in a database with many ended jobs and in an almost empty one.

The benchmark starts a Postgres of its own. It measures submissions, claims, commits and reads, adds millions of ended
jobs by SQL, and measures the same again. At the end it measures how fast the retention expires and deletes jobs.

    python benchmarks/many_jobs.py --jobs 5000000

Five million jobs take about 9 GB on disk and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from store_jobs import OWNER, new_job, running_stores

from pixtools.database.connection import Database
from pixtools.database.job_store import JobStore
from pixtools.database.retention_store import RetentionStore
from pixtools.jobs.outcomes import Batch, Started, Stored, Succeeded
from pixtools.settings import Settings

_ROUNDS = 300
_CHUNK = 100_000  # jobs in one INSERT
_WARM_UP = 30
_RETENTION_S = 20.0

# Every second job belongs to OWNER, and the others to 1,000 owners. The ids are version 7 UUIDs, so they grow with the
# time of creation.
_ADD_JOBS = """
WITH numbered AS (
    SELECT i, now() - interval '30 days' + i * interval '0.5 seconds' AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
),
new AS (
    INSERT INTO job (id, owner, state, version, attempt, written, crashes, available_at, created_at, started_at,
        finished_at, expires_at, source_key, source_name, source_media_type, source_width, source_height, source_bytes,
        source_sha256, pixels)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
            || '8' || substr(md5(i::text), 4, 15))::uuid,
        CASE WHEN i %% 2 = 0 THEN %(owner)s ELSE 'owner-' || i %% 1000 END, 'succeeded', 4, 1, 1, 0, at, at, at, at,
        at + interval '90 days', 'sources/' || md5(i::text), 'photo.jpg', 'image/jpeg', 768, 512, 100000,
        md5(i::text) || md5(i::text), 800000
    FROM numbered
    RETURNING id, owner, created_at, source_sha256
),
artifacts AS (
    INSERT INTO artifact (id, owner, step_key, blob_key, media_type, width, height, bytes, sha256, created_at)
    SELECT md5('artifact' || id)::uuid, owner, md5('key' || id), 'artifacts/' || md5(id::text), 'image/webp',
        768, 512, 40000, source_sha256, created_at
    FROM new
)
INSERT INTO step (job_id, name, position, op, inputs, params, key, state, attempt, failures, crashes, artifact_id,
    started_at, run_ms)
SELECT id, 'web', 0, 'webp', '{source}', '{}', md5('key' || id), 'succeeded', 1, 0, 0,
    md5('artifact' || id)::uuid, created_at, 40
FROM new
"""


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5_000_000)
    options = parser.parse_args()
    with running_stores() as (_, settings):
        before = measure(settings)
        filled_s = fill(settings, options.jobs)
        after = measure(settings)
        rates = retention_rates(settings)
    print(f"{options.jobs:,} ended jobs, added in {filled_s:.0f} s; medians of {_ROUNDS} calls in ms\n")
    print("| call | almost empty | full | ratio |\n| --- | ---: | ---: | ---: |")
    for name, empty_ms in before.items():
        print(f"| {name} | {empty_ms:.2f} | {after[name]:.2f} | {after[name] / empty_ms:.2f} |")
    print("\n" + "\n".join(f"{name}: {rate:,.0f} jobs a second" for name, rate in rates.items()))


def measure(settings: Settings) -> dict[str, float]:
    """Return the median time of each call of the job store, in milliseconds."""
    database = Database(settings)
    store = JobStore(database, settings)
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        times.setdefault(name, []).append(1000 * (time.perf_counter() - started))
        return result

    for _ in range(_ROUNDS + _WARM_UP):
        job_id = timed("submit", lambda: store.submit(new_job())).job.id
        timed("queue load", lambda: store.queue_load(1000))
        (claim,) = timed("claim", lambda: store.claim("benchmark", 1))
        key = claim.view.steps[0].key
        done = Succeeded("web", Stored(key, f"artifacts/{key}", "image/webp", 40_000, "ab" * 32, 768, 512), 40)
        batch = Batch(claim.id, claim.attempt, (Started("web"), done), 1, settle=True)
        timed("record", lambda: store.record([batch]))  # noqa: B023 (the call is over before the next round)
        timed("status", lambda: store.status(OWNER, job_id))  # noqa: B023
        timed("read", lambda: store.get(OWNER, job_id))  # noqa: B023
        timed("list", lambda: store.list_jobs(OWNER, state=None, before=None, limit=21))
    database.close()
    return {name: statistics.median(values[_WARM_UP:]) for name, values in times.items()}


def fill(settings: Settings, jobs: int) -> float:
    """Add ended jobs with one step and one artifact each. Return the seconds that this took."""
    started = time.monotonic()
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        for first in range(0, jobs, _CHUNK):
            last = min(first + _CHUNK, jobs) - 1
            connection.execute(_ADD_JOBS, {"owner": OWNER, "first": first, "last": last})
        connection.execute("VACUUM ANALYZE")
    return time.monotonic() - started


def retention_rates(settings: Settings) -> dict[str, float]:
    """Return how many jobs a second the retention expires, and how many it deletes after that."""
    database = Database(settings)
    retention = RetentionStore(database)
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute(
            "UPDATE job SET expires_at = now() - interval '400 days' WHERE id IN "
            "(SELECT id FROM job ORDER BY created_at LIMIT 100000)"
        )
    rates = {
        "expire": _rate(lambda: len(retention.expire_jobs())),
        "delete artifacts": _rate(lambda: len(retention.drop_artifacts())),
        "delete jobs": _rate(lambda: retention.delete_expired_jobs(timedelta(days=1))),
    }
    database.close()
    return rates


def _rate(call: Callable[[], int]) -> float:
    started, done = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < _RETENTION_S and (count := call()):
        done += count
    return done / max(elapsed, 0.001)


if __name__ == "__main__":
    main()
