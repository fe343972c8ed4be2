"""The dispatcher: it claims jobs, runs their graphs, and records what comes of them, fenced by the attempt."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import ray

from actors.converter_pool import ConverterPool
from actors.denoiser_client import Denoisers
from actors.outcome_writer import Ledger
from dag.graph import Graph
from dag.plan import Part, Plan, Source
from dag.segments import Inputs, reads_artifacts
from dag.specification import build
from pixtools import logs
from pixtools.database.connection import Database
from pixtools.database.job_store import Claim, JobStore
from pixtools.database.tables import Step
from pixtools.errors import ArtifactLost, DatabaseDown, InvalidPlan, LeaseLost
from pixtools.jobs.outcomes import Cached, Failed
from pixtools.redis.hints import CANCELLED, MOVED, QUEUED, Hints
from pixtools.settings import Settings
from pixtools.states import STEP_DONE, STEP_ENDED

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLAIMED_PER_CONVERTER = 2  # one at work and one at hand, so that no converter waits for the database


class Dispatcher:
    """Shares nothing with other dispatchers but Postgres. Its converters are its own and die with it."""

    def __init__(
        self,
        settings: Settings,
        maximum: int,
        create: Callable[[], Any],
        destroy: Callable[[Any], None],
    ) -> None:
        logs.to_stderr()
        # Ray keeps it over restarts and gives it to no other actor of any cluster.
        self._name = ray.get_runtime_context().get_actor_id()
        self._settings = settings
        self._destroy = destroy
        self._store = JobStore(Database(settings, name=self._name), settings)
        self._hints = Hints(settings)
        self._pool = ConverterPool(
            create,
            destroy,
            minimum=min(settings.min_converters, maximum),
            maximum=maximum,
            idle_s=settings.converter_idle.total_seconds(),
            limit_bytes=settings.converter_memory_bytes,
        )
        self._wake = asyncio.Event()
        self._denoisers = Denoisers(settings, self._wake.set)
        self._claiming = asyncio.Lock()
        self._jobs: dict[tuple[uuid.UUID, int], asyncio.Task[None]] = {}
        self._loops = [
            asyncio.create_task(loop)
            for loop in (
                self._forever(self._dispatch),
                self._forever(self._beat),
                self._hear(),
                self._hear_cancellations(),
            )
        ]
        self._recovered = False
        self._in_doubt = False
        self._retiring: asyncio.Task[None] | None = None

    def facts(self) -> dict[str, Any]:
        """What the health page shows of this dispatcher."""
        return {
            "jobs": len(self._jobs),
            "denoising": self._denoisers.jobs,
            "converters": self._pool.size,
            "idle_converters": self._pool.idle,
            "memory_bytes": self._pool.memory_bytes,
            "taken_bytes": self._pool.taken_bytes,
            "retiring": self._retiring is not None,
        }

    async def retire(self, patience_s: float) -> None:
        """Claim nothing more, and end when the jobs at hand have; those that take longer are handed back.

        Returns at once. Other versions of the code call this too, so its name and arguments stay.
        """
        if self._retiring is None:
            self._retiring = asyncio.create_task(self._retire(patience_s))

    async def _retire(self, patience_s: float) -> None:
        async with self._claiming:  # what is being claimed at this moment is known afterwards
            log.info("retiring: dispatcher=%s jobs=%d", self._name, len(self._jobs))
        self._pool.retire()
        if self._jobs:
            await asyncio.wait(self._jobs.values(), timeout=patience_s)
        left = list(self._jobs.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        try:
            # For as long as the database takes: else the leases run out, and the jobs are blamed for it.
            await self._until_the_database_answers(self._hand_back)
        finally:
            self._destroy(ray.get_runtime_context().current_actor)

    async def _hand_back(self) -> None:
        """Put back what is ours by the database and not at hand."""
        at_hand = [job_id for job_id, _ in self._jobs]
        for job_id in await asyncio.to_thread(self._store.hand_back, self._name, at_hand):
            log.info("handed back: job=%s", job_id)
            await self._hints.publish(MOVED, str(job_id))
            await self._hints.publish(QUEUED)

    async def _forever(self, turn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await turn()
            except DatabaseDown as error:
                log.warning("database down: dispatcher=%s error=%s", self._name, error)
                await asyncio.sleep(1)
            except Exception:
                log.exception("dispatcher loop failed: dispatcher=%s", self._name)
                await asyncio.sleep(1)

    async def _hear(self) -> None:
        async for _ in self._hints.listen(QUEUED):
            self._wake.set()

    async def _hear_cancellations(self) -> None:
        """Stop cancelled jobs at once; should the word be lost, the next renewal tells."""
        async for message in self._hints.listen(CANCELLED):
            for (job_id, attempt), task in self._jobs.items():
                if str(job_id) == message:
                    log.info("cancelled: job=%s attempt=%d", job_id, attempt)
                    task.cancel()

    async def _dispatch(self) -> None:
        """Claim as many jobs as there is room for; without any, wait for a hint, a free place or the next poll."""
        if not self._recovered:
            # Ray restarted this actor, so nobody runs what it held before: no need to wait for the leases.
            while await asyncio.to_thread(self._store.rescue, self._name):
                pass  # it takes some at a time
            self._recovered = True
        self._wake.clear()
        if self._in_doubt:
            await self._hand_back()
            self._in_doubt = False
        async with self._claiming:
            room = self._room() if self._retiring is None else 0
            self._in_doubt = True  # should the database fall silent now: it may have given us jobs
            claims = await asyncio.to_thread(self._store.claim, self._name, room) if room > 0 else []
            self._in_doubt = False
            for claim in claims:
                held = (claim.id, claim.attempt)
                task = self._jobs[held] = asyncio.create_task(self._run(claim))
                task.add_done_callback(partial(self._leave, held))
        if not claims:
            try:
                async with asyncio.timeout(self._settings.poll.total_seconds()):
                    await self._wake.wait()
            except TimeoutError:
                self._pool.shrink()

    def _room(self) -> int:
        """Return how many jobs more there is work for: those at a denoiser leave the converters to others."""
        away = min(self._denoisers.jobs, self._settings.max_denoising)
        return self._pool.maximum * _CLAIMED_PER_CONVERTER + away - len(self._jobs)

    def _leave(self, held: tuple[uuid.UUID, int], _: asyncio.Task[None]) -> None:
        del self._jobs[held]
        self._wake.set()

    async def _beat(self) -> None:
        """Renew the leases; what was lost or cancelled meanwhile is stopped."""
        await asyncio.sleep(self._settings.beat.total_seconds())
        held = dict(self._jobs)
        if not held:
            return
        kept = await self._until_the_database_answers(lambda: asyncio.to_thread(self._store.renew, list(held)))
        for (job_id, attempt), task in held.items():
            if (job_id, attempt) not in kept and not task.done():
                log.warning("lease lost: job=%s attempt=%d", job_id, attempt)
                task.cancel()

    async def _until_the_database_answers(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except DatabaseDown as error:
                log.warning("database down: dispatcher=%s error=%s", self._name, error)
                await asyncio.sleep(1)  # not until the next beat: the leases are running out

    async def _run(self, claim: Claim) -> None:
        try:
            await self._attempt(claim)
        except* LeaseLost:
            log.warning("lease lost: job=%s attempt=%d", claim.id, claim.attempt)
        except* Exception:
            # Nobody renews the lease from here on, so the sweeper puts the job back and counts a crash.
            log.exception("attempt failed: job=%s attempt=%d", claim.id, claim.attempt)

    async def _attempt(self, claim: Claim) -> None:
        job, steps = claim.view.job, claim.view.steps
        ended = {step.name for step in steps if step.state in STEP_ENDED}
        done = {step.name for step in steps if step.state in STEP_DONE}
        ledger = Ledger(self._store, self._hints, claim)
        try:
            plan = ledger.plan = await asyncio.to_thread(self._plan, claim)  # fonts are slow to measure
        except InvalidPlan as error:  # it was valid for the version that accepted it
            await _refuse(ledger, steps, error)
            return
        artifacts = claim.view.artifacts.items()
        lost = {name for name, artifact in artifacts if artifact.lost_at is not None}
        blobs = {name: artifact.blob_key for name, artifact in artifacts if name not in lost}
        for step in plan.steps:
            if step.name not in ended and step.leaves_file and (artifact := claim.reusable.get(step.key)):
                ledger.report(Cached(step.name, artifact.id))
                blobs[step.name] = artifact.blob_key
                done.add(step.name)
        stuck = {
            step.name for step in plan.steps
            if step.name in ledger.open_steps and reads_artifacts(step) and lost.intersection(step.inputs)
        }  # fmt: skip
        for name in stuck:
            ledger.report(Failed(name, ArtifactLost("Submit the image again to have what it reads made anew.")))
        work = plan.work(frozenset(done), held=frozenset(ended - done | stuck), filed=frozenset(blobs))
        for name in ledger.open_steps - work - done - stuck:
            ledger.report(Cached(name, None))  # nobody needs its pixels any more
        parts = {part.name: part.blob_key for part in claim.view.parts}
        graph = Graph(
            plan,
            inputs=Inputs(job.owner, job.source_key, job.source_bytes, parts),
            converters=self._pool,
            denoiser=self._denoisers.of(claim.id),
            deadline_s=self._settings.step_deadline.total_seconds(),
            report=ledger.report,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.write())
            await graph.run(work, blobs)
            ledger.close()

    def _plan(self, claim: Claim) -> Plan:
        """Return the plan of stored steps: the same specification, checked by the same code."""
        job = claim.view.job
        document = {step.name: {"op": step.op, "input": step.inputs, **step.params} for step in claim.view.steps}
        parts = {
            part.name: Part(part.sha256, (part.width, part.height), part.frames, part.media_type, part.bytes)
            for part in claim.view.parts
        }
        size = (job.source_width, job.source_height)
        source = Source(job.source_name, job.source_sha256, size, job.source_frames, parts, job.source_media_type)
        limits, weights = self._settings.image_limits(), self._settings.weights_sha256
        return build(document, source, len(document), limits, weights)


async def _refuse(ledger: Ledger, steps: Sequence[Step], error: InvalidPlan) -> None:
    """Fail what is left of a job whose plan is none any more."""
    # In running order, so that readers are skipped before their own turn comes.
    for name in (step.name for step in steps if step.name in ledger.open_steps):
        ledger.report(Failed(name, error))
    ledger.close()
    await ledger.write()
