"""All SQL of jobs. Every move of a job or step is a guarded update, fenced by the job's attempt.

Each public method is one transaction. A database that does not answer raises DatabaseDown.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, assert_never

from sqlalchemy import ColumnElement, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import Session, col
from uuid6 import uuid7

from pixtools.database.connection import Database
from pixtools.database.tables import Answer, Artifact, DeadLetter, Job, Part, Step
from pixtools.database.transitions import (
    StepId,
    bury,
    count,
    discard_letters,
    end_job,
    end_state,
    job_may_become,
    move_step,
    note,
    requeue,
    retry_step,
    steps_of,
)
from pixtools.errors import (
    ConverterCrashed,
    DispatcherLost,
    JobEnded,
    KeyReused,
    LeaseLost,
    NotFound,
    PixToolsError,
)
from pixtools.jobs.outcomes import Began, Cached, Crashed, Done, Failed, Outcome, Stored
from pixtools.retries import backoff, crash_tries, jitter
from pixtools.settings import Settings
from pixtools.states import STEP_ENDED, Happening, JobState, StepState

_SWEEP_BATCH = 100


@dataclass(frozen=True)
class NewStep:
    name: str
    op: str
    inputs: tuple[str, ...]
    params: dict[str, Any]
    key: str


@dataclass(frozen=True)
class NewPart:
    name: str
    blob_key: str
    media_type: str
    width: int
    height: int
    frames: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class NewJob:
    owner: str
    source_key: str
    source_name: str
    source_media_type: str
    source_width: int
    source_height: int
    source_frames: int
    source_bytes: int
    source_sha256: str
    steps: tuple[NewStep, ...]  # in running order
    parts: tuple[NewPart, ...] = ()
    id: uuid.UUID = field(default_factory=uuid7)  # UUIDv7, for jobs are listed by it


@dataclass(frozen=True)
class Scope:
    """Where an idempotency key counts."""

    owner: str
    route: str
    key: str


@dataclass(frozen=True)
class Idempotency:
    """What makes two requests the same one: the scope of their key, and the fingerprint of their content."""

    scope: Scope
    fingerprint: str

    def require_match(self, fingerprint: str) -> None:
        """Raise KeyReused unless the request first seen under this key had the same content."""
        if fingerprint != self.fingerprint:
            raise KeyReused("Send a new key with a new request, or the same request with the old key.")


@dataclass(frozen=True)
class JobView:
    """A job as its readers see it: its steps in running order, the artifacts they left by step name, its parts."""

    job: Job
    steps: tuple[Step, ...]
    artifacts: dict[str, Artifact]
    parts: tuple[Part, ...] = ()  # by name


@dataclass(frozen=True)
class Accepted:
    body: bytes
    job_id: uuid.UUID
    replayed: bool


@dataclass(frozen=True)
class Claim:
    """A job that a dispatcher holds, and the artifacts that its unfinished steps may be answered from, by key."""

    view: JobView
    reusable: dict[str, Artifact]

    @property
    def id(self) -> uuid.UUID:
        return self.view.job.id

    @property
    def attempt(self) -> int:
        return self.view.job.attempt


class JobStore:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._transaction = database.transaction
        self._lease = settings.lease
        self._max_attempts = settings.max_attempts
        self._max_crashes = settings.max_crashes
        self._idempotency_ttl = settings.idempotency_ttl
        self._retention = settings.job_retention

    # Readers

    def backlog(self) -> dict[str, int]:
        """Return how many jobs are queued and running, over all owners."""
        unfinished = (JobState.QUEUED, JobState.RUNNING)
        with self._transaction() as session:
            rows = session.execute(
                select(col(Job.state), func.count()).where(col(Job.state).in_(unfinished)).group_by(col(Job.state)),
            ).all()
        return {state.value: sum(count for found, count in rows if found == state) for state in unfinished}

    def get(self, owner: str, job_id: uuid.UUID) -> JobView:
        with self._transaction() as session:
            rows = session.execute(
                select(Job, Step, Artifact)
                .join(Step, col(Step.job_id) == col(Job.id))
                .outerjoin(Artifact, col(Artifact.id) == col(Step.artifact_id))
                .where(col(Job.id) == job_id, col(Job.owner) == owner)
                .order_by(col(Step.position)),
            ).all()
            parts = _parts(session, [job_id])
        if not rows:
            raise NotFound(f"There is no job {job_id}.")
        artifacts = {step.name: artifact for _, step, artifact in rows if artifact}
        return JobView(rows[0][0], tuple(step for _, step, _ in rows), artifacts, tuple(parts))

    def version(self, owner: str, job_id: uuid.UUID) -> int:
        """Return the count of changes that a reader of the job could have seen."""
        with self._transaction() as session:
            version = session.scalar(
                select(col(Job.version)).where(col(Job.id) == job_id, col(Job.owner) == owner),
            )
        if version is None:
            raise NotFound(f"There is no job {job_id}.")
        return version

    def history(
        self,
        owner: str,
        *,
        state: JobState | None,
        before: uuid.UUID | None,
        limit: int,
    ) -> list[JobView]:
        """Return the owner's jobs, newest first, from the one that follows `before`."""
        wanted: list[ColumnElement[bool]] = [col(Job.owner) == owner]
        if state is not None:
            wanted.append(col(Job.state) == state)
        if before is not None:
            wanted.append(col(Job.id) < before)
        with self._transaction() as session:
            query = select(Job).where(*wanted).order_by(col(Job.id).desc()).limit(limit)
            return _views(session, session.scalars(query).all())

    def replay(self, request: Idempotency) -> Accepted | None:
        """Return what the request was answered before, if it was; KeyReused if its key served another."""
        with self._transaction() as session:
            answer = session.scalars(
                select(Answer).where(
                    col(Answer.owner) == request.scope.owner,
                    col(Answer.route) == request.scope.route,
                    col(Answer.key) == request.scope.key,
                    col(Answer.expires_at) > func.now(),
                ),
            ).one_or_none()
        if answer is None:
            return None
        request.require_match(answer.fingerprint)
        return Accepted(answer.body, answer.job_id, replayed=True)

    # Ingress

    def submit(
        self,
        new: NewJob,
        request: Idempotency | None,
        render: Callable[[JobView], bytes],
    ) -> Accepted:
        """Store a job with its steps and the answer that its request gets, or replay the first answer.

        Of requests with one key, however many at once, one is accepted: the unique key decides.
        """
        with self._transaction() as session:
            view = _insert_job(session, new, self._retention)
            body = render(view)
            if request is None or self._remember(session, request, view.job.id, body):
                return Accepted(body, view.job.id, replayed=False)
            session.rollback()
        replayed = self.replay(request)
        if replayed is None:  # the row that was in the way expired meanwhile
            return self.submit(new, request, render)
        return replayed

    def _remember(self, session: Session, request: Idempotency, job_id: uuid.UUID, body: bytes) -> bool:
        row = {
            "fingerprint": request.fingerprint,
            "job_id": job_id,
            "body": body,
            "created_at": func.now(),
            "expires_at": func.now() + self._idempotency_ttl,
        }
        statement = (
            upsert(Answer)
            .values(**vars(request.scope), **row)
            .on_conflict_do_update(
                index_elements=["owner", "route", "key"],
                set_=row,
                where=col(Answer.expires_at) <= func.now(),
            )
            .returning(col(Answer.key))
        )
        return session.execute(statement).first() is not None

    # Owners

    def cancel(self, owner: str, job_id: uuid.UUID) -> JobView:
        """End a job before it settles; what it has made so far stays. Raises JobEnded if it ended otherwise."""
        with self._transaction() as session:
            wanted = select(Job).where(col(Job.id) == job_id, col(Job.owner) == owner)
            # Not its key: whoever discards a letter that we are to discard adds a row that refers to the job.
            job = session.scalars(wanted.with_for_update(key_share=True)).one_or_none()
            if job is None:
                raise NotFound(f"There is no job {job_id}.")
            if job.state not in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED):
                raise JobEnded(f"Job {job_id} is {job.state}; only a job that is queued or running can be cancelled.")
            if job.state != JobState.CANCELLED:
                for step in steps_of(session, job_id):
                    move_step(session, (job_id, step.name), StepState.CANCELLED)
                discard_letters(session, [col(DeadLetter.job_id) == job_id])
                end_job(session, job_id, JobState.CANCELLED, self._retention)
        return self.get(owner, job_id)

    # Dispatchers

    def claim(self, dispatcher: str, limit: int) -> list[Claim]:
        """Take up to `limit` jobs from the queue, oldest first; each starts its next attempt under a lease."""
        queued = (
            select(col(Job.id))
            .where(col(Job.state) == JobState.QUEUED, col(Job.available_at) <= func.now())
            .order_by(col(Job.available_at))
            .limit(limit)
            .with_for_update(skip_locked=True)
            # As a subquery the planner may run it once for each row, and take more than the limit.
            .cte("queued")
        )
        statement = (
            update(Job)
            .where(col(Job.id) == queued.c.id, job_may_become(JobState.RUNNING))
            .values(
                state=JobState.RUNNING,
                attempt=Job.attempt + 1,
                written=0,
                dispatcher=dispatcher,
                lease_until=func.now() + self._lease,
                started_at=func.coalesce(Job.started_at, func.now()),
                version=Job.version + 1,
            )
            .returning(Job)
        )
        with self._transaction() as session:
            jobs = session.scalars(statement).all()
            return [Claim(view, _reusable(session, view)) for view in _views(session, jobs)]

    def renew(self, held: Iterable[tuple[uuid.UUID, int]]) -> set[tuple[uuid.UUID, int]]:
        """Extend the leases on jobs held at these attempts; those not returned are lost."""
        statement = (
            update(Job)
            .where(tuple_(col(Job.id), col(Job.attempt)).in_(list(held)), col(Job.state) == JobState.RUNNING)
            .values(lease_until=func.now() + self._lease)
            .returning(col(Job.id), col(Job.attempt))
        )
        with self._transaction() as session:
            return {(job_id, attempt) for job_id, attempt in session.execute(statement)}

    def record(
        self,
        job_id: uuid.UUID,
        attempt: int,
        outcomes: Sequence[Outcome],
        *,
        batch: int | None = None,
        settle: bool = False,
    ) -> JobState:
        """Write what came of steps and return the job's state; raises LeaseLost if `attempt` is not current.

        With `settle` the attempt is over: the job ends, or goes back to the queue if steps are to be tried again.
        An attempt numbers its batches from 1: one that was written although its commit went unheard is not written
        again.
        """
        current = [col(Job.id) == job_id, col(Job.attempt) == attempt]
        changes: dict[str, Any] = {"version": Job.version + 1, "lease_until": func.now() + self._lease}
        new = list[ColumnElement[bool]]()
        if batch is not None:
            changes["written"], new = batch, [col(Job.written) < batch]
        with self._transaction() as session:
            owner = session.scalar(
                update(Job)
                .where(*current, *new, col(Job.state) == JobState.RUNNING)
                .values(changes)
                .returning(col(Job.owner)),
            )
            if owner is None:
                written = session.scalar(select(col(Job.state)).where(*current, *(~clause for clause in new)))
                if batch is None or written is None or written == JobState.CANCELLED:
                    raise LeaseLost(f"job {job_id}, attempt {attempt}")
                return JobState(written)
            for outcome in outcomes:
                self._apply(session, owner, job_id, attempt, outcome)
            return self._settle(session, job_id) if settle else JobState.RUNNING

    def _apply(
        self,
        session: Session,
        owner: str,
        job_id: uuid.UUID,
        attempt: int,
        outcome: Outcome,
    ) -> None:
        step = (job_id, outcome.step)
        match outcome:
            case Began():
                started = func.coalesce(Step.started_at, func.now())
                move_step(session, step, StepState.RUNNING, attempt=attempt, started_at=started)
            case Cached(artifact_id=artifact_id):
                # Else it went since the job was claimed: the step waits, and the next attempt makes it anew.
                if artifact_id is None or _still_there(session, artifact_id):
                    move_step(session, step, StepState.CACHED, attempt=attempt, artifact_id=artifact_id, error=None)
            case Done(stored=stored, run_ms=run_ms):
                artifact_id = _insert_artifact(session, owner, stored) if stored else None
                if not move_step(
                    session, step, StepState.SUCCEEDED, artifact_id=artifact_id, run_ms=run_ms, error=None,
                ):  # fmt: skip
                    raise RuntimeError(f"step {outcome.step} of job {job_id} is done without having begun")
            case Failed(error=error, run_ms=run_ms):
                failures = 0 if error.outage else count(session, step, Step.failures)
                again = error.retryable and failures < self._max_attempts
                if not error.outage or _is_news(session, step, error):
                    note(session, step, attempt, Happening.FAILED, error)
                _end_try(session, owner, step, attempt, error, again=again, run_ms=run_ms)
            case Crashed():
                crashes = count(session, step, Step.crashes)
                error = ConverterCrashed(f"Converters that died while they ran this step: {crashes}.")
                note(session, step, attempt, Happening.CRASHED)
                _end_try(session, owner, step, attempt, error, again=crashes < self._max_crashes)
            case _:
                assert_never(outcome)

    def _settle(self, session: Session, job_id: uuid.UUID) -> JobState:
        steps = steps_of(session, job_id)
        state = end_state(steps)
        if state is not None:
            end_job(session, job_id, state, self._retention)
            return state
        requeue(session, job_id, backoff(steps))
        return JobState.QUEUED

    def hand_back(self, dispatcher: str | None = None, at_hand: Collection[uuid.UUID] = ()) -> list[uuid.UUID]:
        """Return the running jobs of a dispatcher to the queue, save those `at_hand`, and blame nobody.

        Without a name those of all dispatchers, once all have ended in good order.
        """
        theirs = [] if dispatcher is None else [col(Job.dispatcher) == dispatcher]
        held = select(col(Job.id)).where(
            col(Job.state) == JobState.RUNNING, col(Job.id).not_in(at_hand), *theirs,
        ).with_for_update()  # fmt: skip
        with self._transaction() as session:
            job_ids = list(session.scalars(held))
            for job_id in job_ids:
                requeue(session, job_id, timedelta())
        return job_ids

    # The sweeper

    def rescue(self, dispatcher: str | None = None) -> list[uuid.UUID]:
        """Put back jobs whose lease ran out, or all that `dispatcher` held before it died; return their ids.

        A job that was under too many dispatchers when they died is given up: its open steps become dead letters.
        """
        lost = col(Job.lease_until) < func.now() if dispatcher is None else col(Job.dispatcher) == dispatcher
        held = (
            select(col(Job.id), col(Job.owner), col(Job.attempt), col(Job.crashes))
            .where(col(Job.state) == JobState.RUNNING, lost)
            .order_by(col(Job.lease_until))
            .limit(_SWEEP_BATCH)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as session:
            rows = session.execute(held).all()
            for job_id, owner, attempt, crashes in rows:
                self._rescue_one(session, job_id, owner, attempt, crashes + 1)
        return [row.id for row in rows]

    def _rescue_one(
        self,
        session: Session,
        job_id: uuid.UUID,
        owner: str,
        attempt: int,
        crashes: int,
    ) -> None:
        steps = steps_of(session, job_id)
        for step in steps:
            if step.state == StepState.RUNNING:
                note(session, (job_id, step.name), attempt, Happening.LOST)
        if crashes < self._max_crashes:
            requeue(session, job_id, jitter(crash_tries(crashes)), crashes=crashes)
            return
        error = DispatcherLost(f"Dispatchers that died while they ran this job: {crashes}.")
        # In running order, so that what reads a buried step is skipped before its own turn comes.
        for step in steps:
            bury(session, owner, (job_id, step.name), attempt, error)
        state = end_state(steps_of(session, job_id))
        assert state is not None  # noqa: S101 (all that was open is buried)
        end_job(session, job_id, state, self._retention, crashes=crashes)

    def forget_answers(self) -> int:
        """Delete the answers whose time to be replayed is over; return how many."""
        with self._transaction() as session:
            statement = delete(Answer).where(col(Answer.expires_at) < func.now()).returning(col(Answer.key))
            return len(session.execute(statement).all())


def _insert_job(session: Session, new: NewJob, retention: timedelta) -> JobView:
    facts = {name: value for name, value in vars(new).items() if name not in ("steps", "parts")}
    facts |= {"state": JobState.QUEUED, "expires_at": func.now() + retention}
    job = session.scalars(insert(Job).values(**facts).returning(Job)).one()
    rows = [
        Step(
            job_id=job.id, name=step.name, position=position, op=step.op, inputs=list(step.inputs),
            params=step.params, key=step.key, state=StepState.WAITING,
        )
        for position, step in enumerate(new.steps)
    ]  # fmt: skip
    session.execute(insert(Step), [row.model_dump(exclude_none=True) for row in rows])
    parts = [Part(job_id=job.id, **vars(part)) for part in sorted(new.parts, key=lambda part: part.name)]
    if parts:
        session.execute(insert(Part), [part.model_dump() for part in parts])
    return JobView(job, tuple(rows), {}, tuple(parts))


def _views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return jobs with their steps, artifacts and parts, in the order given, by two queries."""
    if not jobs:
        return []
    job_ids = [job.id for job in jobs]
    parts = _parts(session, job_ids)
    rows = session.execute(
        select(Step, Artifact)
        .outerjoin(Artifact, col(Artifact.id) == col(Step.artifact_id))
        .where(col(Step.job_id).in_(job_ids))
        .order_by(col(Step.job_id), col(Step.position)),
    ).all()
    return [
        JobView(
            job,
            tuple(step for step, _ in rows if step.job_id == job.id),
            {step.name: artifact for step, artifact in rows if step.job_id == job.id and artifact},
            tuple(part for part in parts if part.job_id == job.id),
        )
        for job in jobs
    ]


def _parts(session: Session, job_ids: Collection[uuid.UUID]) -> Sequence[Part]:
    query = select(Part).where(col(Part.job_id).in_(job_ids)).order_by(col(Part.name).collate("C"))
    return session.scalars(query).all()


def _reusable(session: Session, view: JobView) -> dict[str, Artifact]:
    keys = [step.key for step in view.steps if step.state not in STEP_ENDED]
    query = select(Artifact).where(
        col(Artifact.owner) == view.job.owner, col(Artifact.step_key).in_(keys), col(Artifact.lost_at).is_(None),
    )  # fmt: skip
    return {artifact.step_key: artifact for artifact in session.scalars(query)}


def _still_there(session: Session, artifact_id: uuid.UUID) -> bool:
    """Say whether an artifact may be referred to; if so, it stays until this transaction has ended."""
    query = select(col(Artifact.id)).where(col(Artifact.id) == artifact_id, col(Artifact.lost_at).is_(None))
    return session.scalar(query.with_for_update(read=True, key_share=True)) is not None


def _insert_artifact(session: Session, owner: str, stored: Stored) -> uuid.UUID:
    """Return the id of the artifact of this step key: the first to be recorded stays, unless its file was lost."""
    row = {"id": uuid7(), "owner": owner, **vars(stored)}
    this = [col(Artifact.owner) == owner, col(Artifact.step_key) == stored.step_key]
    # Locked, or it could be dropped before a step refers to it; gone already, it is inserted.
    found = select(col(Artifact.id), col(Artifact.lost_at)).where(*this).with_for_update(read=True, key_share=True)
    while True:
        session.execute(upsert(Artifact).values(row).on_conflict_do_nothing(constraint="artifact_step_key"))
        if (there := session.execute(found).one_or_none()) is not None:
            break
    artifact_id: uuid.UUID = there[0]
    if there[1] is not None:
        session.execute(update(Artifact).where(*this).values(**vars(stored), created_at=func.now(), lost_at=None))
    return artifact_id


def _is_news(session: Session, step: StepId, error: PixToolsError) -> bool:
    """Say whether the step met something else last time: an outage goes into its history once."""
    last = select(col(Step.error)).where(tuple_(col(Step.job_id), col(Step.name)) == step)
    return (session.scalar(last) or {}).get("code") != error.code


def _end_try(
    session: Session, owner: str, step: StepId, attempt: int, error: PixToolsError,
    *, again: bool, run_ms: int | None = None,
) -> None:  # fmt: skip
    if again:
        retry_step(session, step, error=error.problem(), run_ms=run_ms)
    else:
        bury(session, owner, step, attempt, error, run_ms)
