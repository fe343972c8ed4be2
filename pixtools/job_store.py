"""All SQL. Every move of a job or step is a guarded update here, fenced by the job's attempt.

Each public method is one transaction. A database that does not answer raises DatabaseDown.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_never

from sqlalchemy import ColumnElement, Engine, create_engine, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session, col
from uuid6 import uuid7

from pixtools.errors import (
    ConverterCrashed,
    DatabaseDown,
    DispatcherLost,
    KeyReused,
    LeaseLost,
    NotFound,
    PixToolsError,
)
from pixtools.outcomes import Began, Cached, Crashed, Done, Failed, Outcome, Stored
from pixtools.records import Answer, Artifact, DeadLetter, Job, Step
from pixtools.settings import Settings
from pixtools.states import JOB_MOVES, STEP_ENDED, STEP_MOVES, JobState, StepState, origins, settled

_RETRY_CAP_S = 300.0
_SWEEP_BATCH = 100


@dataclass(frozen=True)
class NewStep:
    name: str
    op: str
    inputs: tuple[str, ...]
    params: dict[str, Any]
    key: str


@dataclass(frozen=True)
class NewJob:
    owner: str
    source_key: str
    source_name: str
    source_media_type: str
    source_width: int
    source_height: int
    source_bytes: int
    source_sha256: str
    steps: tuple[NewStep, ...]  # in running order


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
    """A job as its readers see it: its steps in running order, and the artifacts they left by step name."""

    job: Job
    steps: tuple[Step, ...]
    artifacts: dict[str, Artifact]


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
    def __init__(self, settings: Settings, pool_size: int = 5, name: str = "pixtools") -> None:
        """`name` is what Postgres calls our connections."""
        url = settings.database_url.get_secret_value()
        self._engine = engine(url, pool_size, name)
        self._lease = settings.lease
        self._max_attempts = settings.max_attempts
        self._max_crashes = settings.max_crashes
        self._idempotency_ttl = settings.idempotency_ttl

    def close(self) -> None:
        self._engine.dispose()

    # Readers

    def ping(self) -> None:
        with self._transaction() as session:
            session.execute(select(1))

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
        if not rows:
            raise NotFound(f"There is no job {job_id}.")
        artifacts = {step.name: artifact for _, step, artifact in rows if artifact}
        return JobView(rows[0][0], tuple(step for _, step, _ in rows), artifacts)

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
            view = _insert_job(session, new)
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
            .where(col(Job.id) == queued.c.id, _may_become(JobState.RUNNING))
            .values(
                state=JobState.RUNNING,
                attempt=Job.attempt + 1,
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
        settle: bool = False,
    ) -> JobState:
        """Write what came of steps and return the job's state; raises LeaseLost if `attempt` is not current.

        With `settle` the attempt is over: the job ends, or goes back to the queue if steps are to be tried again.
        """
        with self._transaction() as session:
            owner = session.scalar(
                update(Job)
                .where(col(Job.id) == job_id, col(Job.attempt) == attempt, col(Job.state) == JobState.RUNNING)
                .values(version=Job.version + 1, lease_until=func.now() + self._lease)
                .returning(col(Job.owner)),
            )
            if owner is None:
                raise LeaseLost(f"job {job_id}, attempt {attempt}")
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
                _move_step(session, step, StepState.RUNNING, attempt=attempt, started_at=started)
            case Cached(artifact_id=artifact_id):
                _move_step(session, step, StepState.CACHED, attempt=attempt, artifact_id=artifact_id, error=None)
            case Done(stored=stored, run_ms=run_ms):
                artifact_id = _insert_artifact(session, owner, stored) if stored else None
                _move_step(
                    session, step, StepState.SUCCEEDED, artifact_id=artifact_id, run_ms=run_ms, error=None,
                )  # fmt: skip
            case Failed(error=error, run_ms=run_ms):
                failures = _count(session, step, Step.failures)
                again = error.retryable and (error.outage or failures < self._max_attempts)
                self._end_try(session, owner, step, attempt, error, again=again, run_ms=run_ms)
            case Crashed():
                crashes = _count(session, step, Step.crashes)
                error = ConverterCrashed(f"{crashes} converters died while they ran this step.")
                self._end_try(session, owner, step, attempt, error, again=crashes < self._max_crashes, run_ms=None)
            case _:
                assert_never(outcome)

    def _end_try(
        self, session: Session, owner: str, step: tuple[uuid.UUID, str], attempt: int, error: PixToolsError,
        *, again: bool, run_ms: int | None,
    ) -> None:  # fmt: skip
        if again:
            _move_step(session, step, StepState.WAITING, error=error.problem(), run_ms=run_ms)
        else:
            _bury(session, owner, step, attempt, error, run_ms)

    def _settle(self, session: Session, job_id: uuid.UUID) -> JobState:
        steps = session.scalars(select(Step).where(col(Step.job_id) == job_id)).all()
        waiting = [step for step in steps if step.state not in STEP_ENDED]
        if not waiting:
            state = _end_state(steps)
            _move_job(session, job_id, state, finished_at=func.now(), lease_until=None)
            return state
        tries = max(1, *(step.failures + step.crashes for step in waiting))
        _put_back(session, job_id)
        _move_job(session, job_id, JobState.QUEUED, available_at=func.now() + _backoff(tries), lease_until=None)
        return JobState.QUEUED

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

    def hand_back(self) -> list[uuid.UUID]:
        """Return every running job to the queue and blame nobody: for when all dispatchers ended in good order."""
        statement = (
            update(Job)
            .where(col(Job.state) == JobState.RUNNING)
            .values(state=JobState.QUEUED, lease_until=None, available_at=func.now(), version=Job.version + 1)
            .returning(col(Job.id))
        )
        with self._transaction() as session:
            job_ids = list(session.scalars(statement))
            for job_id in job_ids:
                _put_back(session, job_id)
        return job_ids

    def _rescue_one(
        self,
        session: Session,
        job_id: uuid.UUID,
        owner: str,
        attempt: int,
        crashes: int,
    ) -> None:
        changes: dict[str, Any] = {"crashes": crashes, "lease_until": None, "version": Job.version + 1}
        if crashes < self._max_crashes:
            _put_back(session, job_id)
            _move_job(session, job_id, JobState.QUEUED, available_at=func.now() + _backoff(crashes), **changes)
            return
        error = DispatcherLost(f"{crashes} dispatchers died while they ran this job.")
        # In running order, so that what reads a buried step is skipped before its own turn comes.
        names = session.scalars(
            select(col(Step.name)).where(col(Step.job_id) == job_id).order_by(col(Step.position)),
        ).all()
        for name in names:
            _bury(session, owner, (job_id, name), attempt, error, None)
        steps = session.scalars(select(Step).where(col(Step.job_id) == job_id)).all()
        _move_job(session, job_id, _end_state(steps), finished_at=func.now(), **changes)

    def forget_answers(self) -> int:
        """Delete the answers whose time to be replayed is over; return how many."""
        with self._transaction() as session:
            statement = delete(Answer).where(col(Answer.expires_at) < func.now()).returning(col(Answer.key))
            return len(session.execute(statement).all())

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OperationalError, PoolTimeout) as error:
            raise DatabaseDown(type(error).__name__) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseDown(type(error).__name__) from error
            raise


def engine(url: str, pool_size: int, name: str = "pixtools") -> Engine:
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError("PIXTOOLS_DATABASE_URL must begin with postgresql://")
    return create_engine(
        f"postgresql+psycopg://{rest}",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "options": "-c statement_timeout=15s -c lock_timeout=15s",
            "tcp_user_timeout": 15_000,  # a server that is cut off cannot time out its statements
            "keepalives_idle": 10,
        },
    )


def _insert_job(session: Session, new: NewJob) -> JobView:
    facts = {name: value for name, value in vars(new).items() if name != "steps"}
    job = session.scalars(insert(Job).values(id=uuid7(), state=JobState.QUEUED, **facts).returning(Job)).one()
    rows = [
        Step(
            job_id=job.id, name=step.name, position=position, op=step.op, inputs=list(step.inputs),
            params=step.params, key=step.key, state=StepState.WAITING,
        )
        for position, step in enumerate(new.steps)
    ]  # fmt: skip
    session.execute(insert(Step), [row.model_dump(exclude_none=True) for row in rows])
    return JobView(job, tuple(rows), {})


def _views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return jobs with their steps and artifacts, in the order given, by one query."""
    if not jobs:
        return []
    rows = session.execute(
        select(Step, Artifact)
        .outerjoin(Artifact, col(Artifact.id) == col(Step.artifact_id))
        .where(col(Step.job_id).in_([job.id for job in jobs]))
        .order_by(col(Step.job_id), col(Step.position)),
    ).all()
    return [
        JobView(
            job,
            tuple(step for step, _ in rows if step.job_id == job.id),
            {step.name: artifact for step, artifact in rows if step.job_id == job.id and artifact},
        )
        for job in jobs
    ]


def _reusable(session: Session, view: JobView) -> dict[str, Artifact]:
    keys = [step.key for step in view.steps if step.state not in STEP_ENDED]
    query = select(Artifact).where(col(Artifact.owner) == view.job.owner, col(Artifact.step_key).in_(keys))
    return {artifact.step_key: artifact for artifact in session.scalars(query)}


def _insert_artifact(session: Session, owner: str, stored: Stored) -> uuid.UUID:
    """Return the id of the artifact of this step key: the first to be recorded stays."""
    row = {"id": uuid7(), "owner": owner, **vars(stored)}
    session.execute(upsert(Artifact).values(row).on_conflict_do_nothing(constraint="artifact_step_key"))
    query = select(col(Artifact.id)).where(
        col(Artifact.owner) == owner, col(Artifact.step_key) == stored.step_key,
    )  # fmt: skip
    return session.scalars(query).one()


def _end_state(steps: Sequence[Step]) -> JobState:
    results = sum(step.artifact_id is not None for step in steps)
    return settled([StepState(step.state) for step in steps], results)


def _may_become(state: JobState) -> ColumnElement[bool]:
    return col(Job.state).in_(origins(JOB_MOVES, state))


def _move_job(session: Session, job_id: uuid.UUID, to: JobState, **values: Any) -> None:
    """Move a job that this transaction has locked."""
    statement = update(Job).where(col(Job.id) == job_id, _may_become(to)).values(state=to, **values)
    if session.execute(statement.returning(col(Job.id))).first() is None:
        raise RuntimeError(f"job {job_id} may not become {to}")


def _move_step(session: Session, step: tuple[uuid.UUID, str], to: StepState, **values: Any) -> bool:
    """Move a step whose job this transaction has locked; say whether it could."""
    from_states = [*origins(STEP_MOVES, to), *([to] if to is StepState.WAITING else [])]
    statement = (
        update(Step)
        .where(tuple_(col(Step.job_id), col(Step.name)) == step, col(Step.state).in_(from_states))
        .values(state=to, **values)
        .returning(col(Step.name))
    )
    return session.execute(statement).first() is not None


def _put_back(session: Session, job_id: uuid.UUID) -> None:
    """Return the steps that were at work to those that wait, as their job returns to the queue."""
    statement = update(Step).where(col(Step.job_id) == job_id, col(Step.state) == StepState.RUNNING)
    session.execute(statement.values(state=StepState.WAITING))


def _count(session: Session, step: tuple[uuid.UUID, str], counter: Any) -> int:
    """Add one to a counter of the step and return it."""
    statement = (
        update(Step)
        .where(tuple_(col(Step.job_id), col(Step.name)) == step)
        .values({counter: counter + 1})
        .returning(counter)
    )
    return int(session.scalars(statement).one())


def _bury(
    session: Session, owner: str, step: tuple[uuid.UUID, str], attempt: int, error: PixToolsError,
    run_ms: int | None,
) -> None:  # fmt: skip
    """Fail a step for good: it becomes a dead letter, and what reads it is skipped."""
    job_id, name = step
    if not _move_step(session, step, StepState.FAILED, error=error.problem(), run_ms=run_ms):
        return
    letter = {"id": uuid7(), "owner": owner, "job_id": job_id, "step": name, "attempt": attempt}
    session.execute(upsert(DeadLetter).values(**letter, error=error.problem()).on_conflict_do_nothing())
    rows = session.execute(
        select(col(Step.name), col(Step.inputs)).where(col(Step.job_id) == job_id).order_by(col(Step.position)),
    ).all()
    gone = {name}
    for reader, inputs in rows:
        if gone.intersection(inputs) and _move_step(session, (job_id, reader), StepState.SKIPPED):
            gone.add(reader)


def _backoff(tries: int) -> timedelta:
    """Return a delay with full jitter: anything up to 2^tries seconds, at most five minutes."""
    most = min(2.0 ** min(tries, 16), _RETRY_CAP_S)
    return timedelta(seconds=random.uniform(0, most))  # noqa: S311 (jitter, not a secret)
