"""An independent record of all moves, which are the changes of the states of jobs and steps.

Database triggers record each move and the connection that made it. The code under test neither writes nor reads the
tables of this record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

import psycopg

_INSTALL = """
CREATE SCHEMA IF NOT EXISTS faults;
CREATE TABLE IF NOT EXISTS faults.job_move (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by text NOT NULL DEFAULT current_setting('application_name'),
    job uuid NOT NULL, was text, became text, attempt int, crashed bool,
    holder text, lapsed bool  -- before the move: the dispatcher of the job, and whether its lease had run out
);
CREATE TABLE IF NOT EXISTS faults.step_move (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by text NOT NULL DEFAULT current_setting('application_name'),
    job uuid NOT NULL, step text NOT NULL, was text NOT NULL, became text NOT NULL, attempt int NOT NULL,
    holder text, error text
);
CREATE TABLE IF NOT EXISTS faults.delivery_move (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivery uuid NOT NULL, was text NOT NULL, became text NOT NULL, attempt int NOT NULL
);
CREATE OR REPLACE FUNCTION faults.delivery_moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.state IS DISTINCT FROM NEW.state THEN
        INSERT INTO faults.delivery_move (delivery, was, became, attempt)
        VALUES (NEW.id, OLD.state, NEW.state, NEW.attempt);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION faults.job_moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO faults.job_move (job, was) VALUES (OLD.id, OLD.state);
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO faults.job_move (job, became, attempt) VALUES (NEW.id, NEW.state, NEW.attempt);
        PERFORM pg_notify('faults', NEW.source_name || ' ' || NEW.state);
    ELSIF (OLD.state, OLD.attempt) IS DISTINCT FROM (NEW.state, NEW.attempt) THEN
        INSERT INTO faults.job_move (job, was, became, attempt, crashed, holder, lapsed)
        VALUES (NEW.id, OLD.state, NEW.state, NEW.attempt, NEW.crashes > OLD.crashes, OLD.dispatcher,
                OLD.lease_until < clock_timestamp());
        PERFORM pg_notify('faults', NEW.source_name || ' ' || NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION faults.step_moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.state IS DISTINCT FROM NEW.state THEN
        INSERT INTO faults.step_move (job, step, was, became, attempt, holder, error)
        SELECT NEW.job_id, NEW.name, OLD.state, NEW.state, NEW.attempt, job.dispatcher, NEW.error->>'code'
        FROM public.job WHERE job.id = NEW.job_id;
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER faults_job AFTER INSERT OR UPDATE OR DELETE ON public.job
    FOR EACH ROW EXECUTE FUNCTION faults.job_moved();
CREATE OR REPLACE TRIGGER faults_step AFTER UPDATE ON public.step
    FOR EACH ROW EXECUTE FUNCTION faults.step_moved();
CREATE OR REPLACE TRIGGER faults_delivery AFTER UPDATE ON public.delivery
    FOR EACH ROW EXECUTE FUNCTION faults.delivery_moved();
"""

ENDED = ("succeeded", "partial", "failed", "cancelled", "expired")

_ENDED_TWICE = """
    SELECT job, 'ended ' || count(*) || ' times' FROM faults.job_move
    WHERE became = ANY(%(ended)s) AND became <> 'expired' GROUP BY job HAVING count(*) > 1
    UNION ALL
    SELECT job, 'moved from ' || was || ' to ' || coalesce(became, 'nothing') FROM faults.job_move
    WHERE was = ANY(%(ended)s) AND became IS DISTINCT FROM 'expired'
"""

# Three moves out of `running` are allowed. The dispatcher that holds the job may make any move. If the lease has run
# out, any process may move the job, but must count a crash. If the service was shut down, the job may return to the
# queue without a crash.
_MOVED_BY_ANOTHER = """
    SELECT job, was || ' to ' || became || ' at attempt ' || attempt || ' by ' || by || ', not by ' || holder
    FROM faults.job_move
    WHERE was = 'running' AND by IS DISTINCT FROM holder AND NOT (lapsed AND crashed)
        AND NOT (%(stopped)s AND became = 'queued' AND NOT crashed)
    UNION ALL
    SELECT job, 'step ' || step || ' ' || was || ' to ' || became || ' by ' || by || ', not by ' || holder
    FROM faults.step_move
    WHERE by IS DISTINCT FROM holder AND by IN (SELECT holder FROM faults.job_move)
"""


@dataclass(frozen=True)
class JobRow:
    """The columns of a job that the checks need."""

    id: str
    state: str
    attempt: int
    crashes: int
    dispatcher: str | None


class Audit:
    """A separate connection to the database of the service. It installs the triggers, and reads their records."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.connection = psycopg.connect(database_url, autocommit=True, application_name="faults")
        self.connection.execute(_INSTALL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def query(self, statement: str, parameters: object = None) -> list[tuple]:
        """Run a query. Repeat the query for up to a minute while Postgres does not answer, for example after a kill."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.connection.closed:
                    self.connection = psycopg.connect(self.url, autocommit=True, application_name="faults")
                return self.connection.execute(statement, parameters).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def wait(self, statement: str, parameters: object = None, timeout: float = 60) -> list[tuple]:
        """Repeat a query until it returns rows. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not (rows := self.query(statement, parameters)):
            assert time.monotonic() < deadline, (statement, parameters)
            time.sleep(0.02)
        return rows

    def now(self) -> object:
        """Return the time according to the clock of the database. The moves are recorded with the same clock."""
        return self.query("SELECT clock_timestamp()")[0][0]

    def jobs(self, prefix: str) -> dict[str, list[JobRow]]:
        """Return the jobs whose source name begins with `prefix`, by source name."""
        rows: dict[str, list[JobRow]] = {}
        statement = "SELECT source_name, id::text, state, attempt, crashes, dispatcher FROM job WHERE source_name ~ %s"
        for name, *columns in self.query(statement, [f"^{prefix}-"]):
            rows.setdefault(name, []).append(JobRow(*columns))
        return rows

    def other_jobs(self, prefix: str, since: object) -> list[str]:
        """Return the jobs that were created after `since` and whose source name does not begin with `prefix`."""
        statement = "SELECT source_name || ' ' || id FROM job WHERE created_at >= %s AND source_name !~ %s"
        return [row[0] for row in self.query(statement, [since, f"^{prefix}-"])]

    def forbidden_moves(self, ids: list[str], *, stopped: bool) -> dict[str, list[str]]:
        """Return the forbidden moves of these jobs, by job.

        `stopped` says that the service was shut down, and not killed.
        """
        moves: dict[str, list[str]] = {}
        for statement in (_ENDED_TWICE, _MOVED_BY_ANOTHER):
            for job, move in self.query(statement, {"ended": list(ENDED), "stopped": stopped}):
                if str(job) in ids:
                    moves.setdefault(str(job), []).append(move)
        return moves

    def errors(self, job: str) -> list[str]:
        """Return the error codes of a job's steps, each once, in the order in which they first occurred."""
        statement = "SELECT error FROM faults.step_move WHERE job = %s AND error IS NOT NULL ORDER BY id"
        return list(dict.fromkeys(row[0] for row in self.query(statement, [job])))
