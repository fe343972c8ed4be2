"""The dispatcher: claims jobs, runs their graphs on converters, and records the outcomes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from actors.attempt import remaining, stored_plan
from actors.cheap_calls import CheapCalls
from actors.converter_pool import Capacity, ConverterPool
from actors.denoiser_client import DenoiserClient
from actors.group_commit import GroupCommit
from actors.job_metrics import JobMetrics
from actors.outcome_writer import OutcomeWriter
from actors.single_flight import SingleFlight, end_flight
from dag.graph import Graph
from dag.messages import Inputs
from dag.plan import Plan
from dag.segments import is_cheap_job
from pixtools import logs, tracing
from pixtools.database.job_store import JobStore
from pixtools.errors import InvalidPlan, LeaseLost
from pixtools.jobs.outcomes import Failed
from pixtools.jobs.views import Claim
from pixtools.redis.hints import CANCELLED, CHANGED, QUEUED, Hints, changed
from pixtools.retries import LOOP_PAUSE_S
from pixtools.settings import Settings
from pixtools.waiting import until_database_answers, wait_at_most

log = logging.getLogger(__name__)

_JOBS_PER_CONVERTER = 2  # one job runs and one is ready, so that no converter waits for the database
_CHEAP_JOBS_PER_CONVERTER = 8  # so that jobs share claims, converter calls and commits
_FIRST_CONVERTERS = 2  # a dispatcher without converters claims jobs for this number of them
_CAPACITY_PAUSE_S = 5.0
_MAX_JOBS_WITHOUT_WORK = 1000  # jobs that may wait for steps of other jobs and take no room

_Held = tuple[uuid.UUID, int]  # the id of a job, and the attempt that this dispatcher runs


@dataclass(frozen=True)
class _Claimed:
    """A claimed job with its plan, or with the reason why it has no plan."""

    claim: Claim
    plan: Plan | Exception
    is_cheap: bool = False

    @classmethod
    def of(cls, claim: Claim, settings: Settings) -> _Claimed:
        try:
            plan = stored_plan(claim, settings)
            return cls(claim, plan, is_cheap_job(plan))
        except Exception as error:  # noqa: BLE001 (the attempt raises it, so that only this job fails)
            return cls(claim, error)


@dataclass
class _Attempt:
    """The state of an attempt that runs in several rounds, because it waits for steps of other jobs."""

    claim: Claim
    plan: Plan
    writer: OutcomeWriter | None = None  # of the last round
    # Steps of other jobs for which this job has waited already. A job waits for a step only once. If the step failed
    # in the other job, this job runs the step itself.
    waited_for: frozenset[str] = frozenset()
    used_s: float = 0.0  # time on converters


class Dispatcher:
    """Claims and runs jobs until `retire` is called. `start` begins the loops.

    Dispatchers share only Postgres. Each dispatcher has a separate pool of converters. If a dispatcher dies, its
    converters die too.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        store: JobStore,
        hints: Hints,
        pool: ConverterPool,
        capacity: Callable[[], Capacity],
        denoiser: DenoiserClient,
        wake: asyncio.Event,
        destroy_self: Callable[[], None],
    ) -> None:
        """`name` is unique and stays the same after a restart. If `wake` is set, the dispatcher looks for jobs at once.

        `capacity` returns the present limits of the pool. The dispatcher calls `destroy_self` after it has retired, to
        end the process.
        """
        self._name = name
        self._settings = settings
        self._store = store
        self._hints = hints
        self._commits = GroupCommit(store, hints)
        self._pool = pool
        self._capacity = capacity
        self._cheap_calls = CheapCalls(pool, settings.step_deadline.total_seconds())
        self._flights = SingleFlight()
        self._metrics = JobMetrics()
        self._jobs_without_work = 0  # they wait for steps of other jobs
        self._denoiser = denoiser
        self._wake = wake
        self._destroy_self = destroy_self
        self._claim_lock = asyncio.Lock()
        self._jobs: dict[_Held, asyncio.Task[None]] = {}
        self._cheap: set[_Held] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._has_recovered = False
        self._claim_in_doubt = False
        self._retirement: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to claim jobs, to renew their leases and to listen for hints, and return at once."""
        self._loops = [
            asyncio.create_task(self._repeat(self._dispatch)),
            asyncio.create_task(self._repeat(self._renew)),
            asyncio.create_task(self._repeat(self._follow_cluster)),
            asyncio.create_task(self._repeat(self._listen_for_jobs)),
            asyncio.create_task(self._repeat(self._listen_for_cancellations)),
        ]

    def stats(self) -> dict[str, Any]:
        """Return the state of this dispatcher. The health page shows some of the numbers."""
        return {
            "jobs": len(self._jobs),
            "denoising": self._denoiser.jobs,
            "converters": self._pool.size,
            "idle_converters": self._pool.idle,
            "running_converters": self._pool.running,
            "memory_bytes": self._pool.memory_bytes,
            "taken_bytes": self._pool.taken_bytes,
            "shared_steps": self._flights.shared,
            "retiring": self._retirement is not None,
        }

    async def retire(self, timeout_s: float) -> None:
        """Stop claiming jobs, and end this process when the running jobs have ended.

        After `timeout_s` seconds, return unfinished jobs to the queue and end. The call itself returns at once.

        Other versions of the code call this method, so keep its name and its positional argument.
        """
        if self._retirement is None:
            self._retirement = asyncio.create_task(self._retire(timeout_s))

    async def _retire(self, timeout_s: float) -> None:
        async with self._claim_lock:  # wait for a claim in progress, so that its jobs are in `_jobs`
            log.info("retiring: dispatcher=%s jobs=%d", self._name, len(self._jobs))
        self._pool.retire()
        if self._jobs:
            await asyncio.wait(self._jobs.values(), timeout=timeout_s)
        unfinished = list(self._jobs.values())
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        try:
            # Wait as long as the database is down. If the process ended now, the leases would run out, and the sweeper
            # would count a crash for each job.
            await until_database_answers(self._return_to_queue, doing="returning jobs to the queue")
        finally:
            self._destroy_self()

    async def _return_to_queue(self) -> None:
        """Find jobs that the database assigns to this dispatcher but that do not run here. Return them to the queue."""
        running = [job_id for job_id, _ in self._jobs]
        for job_id in await asyncio.to_thread(self._store.return_to_queue, self._name, running):
            with logs.about(job_id=job_id):
                log.info("returned to the queue")
            await self._hints.publish(CHANGED, changed(job_id))
            await self._hints.publish(QUEUED, "")

    async def _repeat(self, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await turn()
            except Exception:
                log.exception("dispatcher loop failed: dispatcher=%s", self._name)
                await asyncio.sleep(LOOP_PAUSE_S)

    async def _listen_for_jobs(self) -> None:
        async for _ in self._hints.listen(QUEUED):
            self._wake.set()

    async def _listen_for_cancellations(self) -> None:
        """Stop cancelled jobs at once. If a hint is lost, the next renewal notices the cancellation."""
        async for message in self._hints.listen(CANCELLED):
            for (job_id, attempt), task in self._jobs.items():
                if str(job_id) == message:
                    with logs.about(job_id=job_id, attempt=attempt):
                        log.info("cancelled")
                    task.cancel()

    async def _follow_cluster(self) -> None:
        """Use new nodes of the cluster. End converters that are not needed, or whose nodes are leaving."""
        await asyncio.sleep(_CAPACITY_PAUSE_S)
        self._pool.adapt(await asyncio.to_thread(self._capacity))
        self._pool.shrink()

    async def _dispatch(self) -> None:
        """Claim jobs and start them. If there is no job to claim, wait for `wake` or for the next poll."""
        self._wake.clear()
        claimed = await until_database_answers(self._claim, doing="claiming jobs")
        if claimed == 0:
            await wait_at_most(self._wake, self._settings.poll_interval.total_seconds())

    async def _claim(self) -> int:
        """Claim up to `_room` jobs, start them, and return their number."""
        await self._recover()
        async with self._claim_lock:
            room = self._room()
            # If the answer of the database is lost, the database may still have assigned jobs to this dispatcher.
            # `_recover` returns these jobs to the queue.
            self._claim_in_doubt = True
            claimed = await asyncio.to_thread(self._claim_now, room) if room > 0 else []
            self._claim_in_doubt = False
            for job in claimed:
                held = (job.claim.id, job.claim.attempt)
                with logs.about(**job.claim.ids):  # the task takes the ids with it
                    task = self._jobs[held] = asyncio.create_task(self._run(job.claim, job.plan))
                task.add_done_callback(partial(self._forget, held))
                if job.is_cheap:
                    self._cheap.add(held)
        return len(claimed)

    def _claim_now(self, room: int) -> list[_Claimed]:
        """Claim up to `room` jobs, and build their plans. Call this in a thread: building a plan can take long."""
        return [_Claimed.of(claim, self._settings) for claim in self._store.claim(self._name, room)]

    async def _recover(self) -> None:
        """Return jobs to the queue that remain from before a restart, or from a claim whose answer was lost."""
        if not self._has_recovered:
            # If Ray restarted this actor, the jobs from before the restart have stopped. Rescue these jobs now, because
            # the sweeper rescues them only after their leases have run out.
            while await asyncio.to_thread(self._store.rescue, self._name):
                pass  # repeat, because one call rescues a limited number of jobs
            self._has_recovered = True
        if self._claim_in_doubt:
            await self._return_to_queue()
            self._claim_in_doubt = False

    def _room(self) -> int:
        """Return how many more jobs to claim. While all converters are busy, wait until half of the room is free.

        Up to `max_denoising` jobs at the denoiser do not count, because they use no converter. For the same reason, up
        to `_MAX_JOBS_WITHOUT_WORK` jobs that wait for steps of other jobs do not count.
        """
        if self._retirement is not None:
            return 0
        denoising = min(self._denoiser.jobs, self._settings.max_denoising)
        are_cheap = 0 < len(self._cheap) == len(self._jobs)
        per_converter = _CHEAP_JOBS_PER_CONVERTER if are_cheap else _JOBS_PER_CONVERTER
        capacity = self._expected_converters() * per_converter
        without_work = min(self._jobs_without_work, _MAX_JOBS_WITHOUT_WORK)
        room = max(0, capacity + denoising + without_work - len(self._jobs))
        return room if self._pool.idle or 2 * room >= capacity else 0

    def _converters_for_one_job(self) -> int:
        """Return the number of converters among which to divide the steps of a job.

        Passing pixels from one converter to another costs CPU time. So while other jobs can use the converters, a job
        gets only its share of them. The number of idle converters alone is too high: jobs that were just claimed have
        not asked for a converter yet.
        """
        jobs = len(self._jobs) - self._denoiser.jobs - self._jobs_without_work
        return max(1, min(self._pool.idle, self._expected_converters() // max(1, jobs)))

    def _expected_converters(self) -> int:
        """Return the number of converters that this dispatcher will probably have soon. It claims jobs for all of them.

        The number is larger than that of the running converters, so that callers wait and the pool grows. From two
        converters on, it is twice as large and not more, because jobs that wait here cannot run at another dispatcher.
        """
        return min(self._pool.maximum, max(_FIRST_CONVERTERS, 2 * self._pool.running))

    def _forget(self, held: _Held, _: asyncio.Task[None]) -> None:
        del self._jobs[held]
        self._cheap.discard(held)
        self._wake.set()

    async def _renew(self) -> None:
        """Wait until a renewal is due, renew the leases, and stop the jobs that were cancelled or lost their lease."""
        await asyncio.sleep(self._settings.renew_interval.total_seconds())
        held = dict(self._jobs)
        if not held:
            return
        renewed = await until_database_answers(
            lambda: asyncio.to_thread(self._store.renew, list(held)), doing="renewing leases"
        )
        for (job_id, attempt), task in held.items():
            if (job_id, attempt) not in renewed and not task.done():
                with logs.about(job_id=job_id, attempt=attempt):
                    log.warning("lease lost or job cancelled")
                task.cancel()

    async def _run(self, claim: Claim, plan: Plan | Exception) -> None:
        try:
            with tracing.span("attempt", claim.view.job.traceparent, **claim.ids), logs.about(**tracing.as_ids()):
                await self._run_attempt(claim, plan)
        except* LeaseLost:
            log.warning("lease lost")
        except* Exception:
            # Nobody renews the lease from now on, so the sweeper returns the job to the queue and counts a crash.
            log.exception("attempt failed")

    async def _run_attempt(self, claim: Claim, plan: Plan | Exception) -> None:
        """Run the remaining steps of a job and record the outcomes. Raises LeaseLost if the lease was lost.

        `plan` is the plan of the job, or the reason why the job has no plan.
        """
        if isinstance(plan, InvalidPlan):
            await _fail_open_steps(OutcomeWriter(self._commits, claim, metrics=self._metrics), claim, plan)
            return
        if isinstance(plan, Exception):
            raise plan
        attempt = _Attempt(claim, plan)
        while elsewhere := await self._run_round(attempt):
            # Other jobs run some of the steps. Wait for them, and look again which steps remain.
            self._jobs_without_work += 1
            self._wake.set()
            try:
                await asyncio.wait(elsewhere)
            finally:
                self._jobs_without_work -= 1
            attempt.claim = await until_database_answers(
                partial(asyncio.to_thread, self._store.refresh, claim), doing="reading a job again"
            )

    async def _run_round(self, attempt: _Attempt) -> Collection[asyncio.Future[None]]:
        """Run the remaining steps, except those that other jobs run at the moment. Record the outcomes.

        Return the ends of the steps that other jobs run. If there are no such steps, the attempt is settled.
        """
        claim, plan, before = attempt.claim, attempt.plan, attempt.writer
        # A step that failed in the round before is tried again in the next attempt, after a pause.
        failed = frozenset() if before is None else before.failed
        todo = remaining(plan, claim, failed)
        with self._flights.join(claim.view.job.owner, plan, todo.work - attempt.waited_for) as (own, elsewhere):
            if elsewhere:
                attempt.waited_for |= elsewhere.keys()
                todo = remaining(plan, claim, failed.union(elsewhere))
            for step in own.keys() - todo.work:  # it reads a step of another job
                end_flight(own[step])

            def on_recorded(step: str) -> None:
                if step in own:
                    end_flight(own[step])

            writer = OutcomeWriter(
                self._commits,
                claim,
                before=before,
                settles=not elsewhere,
                on_recorded=on_recorded,
                metrics=self._metrics,
            )
            attempt.writer, writer.plan = writer, plan
            for outcome in todo.outcomes:
                writer.report(outcome)
            async with asyncio.TaskGroup() as group:
                group.create_task(writer.write())
                graph = self._graph(claim, plan, writer, attempt.used_s)
                await graph.run(todo.work, todo.blobs, todo.blob_bytes)
                attempt.used_s = graph.used_s
                writer.close()
        return elsewhere.values()

    def _graph(self, claim: Claim, plan: Plan, writer: OutcomeWriter, used_s: float) -> Graph:
        job = claim.view.job
        parts = {part.name: part.blob_key for part in claim.view.parts}
        return Graph(
            plan,
            inputs=Inputs(job.owner, job.source_key, job.source_bytes, parts, ids=dict(logs.ids())),
            converters=self._pool,
            denoiser=self._denoiser.of(claim.id),
            at_once=self._converters_for_one_job(),
            deadline_s=self._settings.step_deadline.total_seconds(),
            job_deadline_s=self._settings.job_deadline.total_seconds(),
            max_bytes=self._settings.max_job_bytes,
            report=writer.report,
            used_s=used_s,
            # If a step has killed a converter, the next attempt must show which step does this.
            cheap_calls=None if any(step.crashes for step in claim.view.steps) else self._cheap_calls,
        )


async def _fail_open_steps(writer: OutcomeWriter, claim: Claim, error: InvalidPlan) -> None:
    """Fail the remaining steps of a job whose plan is no longer valid.

    A step that reads another remaining step gets no outcome here: the store skips it when the other step fails.
    """
    for step in claim.view.steps:
        if step.name in writer.open_steps and not writer.open_steps.intersection(step.inputs):
            writer.report(Failed(step.name, error))
    writer.close()
    await writer.write()
