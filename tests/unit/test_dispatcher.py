"""The dispatcher in one process. Its loops, pool and graphs are real. Its stores, converters and clock are fake."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_converters import FakeConverters
from fake_stores import FakeDatabase, FakeHints, FakeJob, FakeJobStore, artifact_record, step_record
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from actors.attempt import stored_plan
from actors.converter_pool import Capacity, ConverterPool
from actors.dispatcher import Dispatcher
from pixtools.errors import DatabaseDown, InvalidPlan
from pixtools.jobs.outcomes import Cached, Failed, Outcome, Started, Succeeded
from pixtools.jobs.records import StepRecord
from pixtools.jobs.views import Claim
from pixtools.redis.hints import CANCELLED, CHANGED, QUEUED
from pixtools.settings import Settings
from pixtools.states import JobState, StepState

pytestmark = pytest.mark.anyio

WAITS, RUNS, SUCCEEDED = JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED

SETTINGS = Settings(database_url="postgresql://none", redis_url="redis://none", max_denoising=2)


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


CHEAP = step_record("a")
_HUGE = {"width": 7000, "height": 7000, "fit": "fill", "upscale": True}
_HALF = _HUGE | {"width": 3500}
SLOW = step_record("slow", op="png", params={"effort": "small", "resize": _HUGE})


class Bench:
    """The dispatcher "d1" with two converters, a job store and hints."""

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.database = FakeDatabase()
        self.store = FakeJobStore(self.database, self.time)
        self.hints = FakeHints()
        self.converters = FakeConverters()
        self.denoiser = SimpleNamespace(jobs=0, of=lambda _: None)
        self.destroyed = 0
        self.capacity = Capacity(2)
        self.dispatcher = Dispatcher(
            "d1",
            SETTINGS,
            store=self.store,
            hints=self.hints,
            pool=ConverterPool(
                self.converters.create,
                self.converters.destroyed.append,
                minimum=2,
                maximum=2,
                idle_s=60,
                limit_bytes=10**9,
            ),
            capacity=lambda: self.capacity,
            denoiser=self.denoiser,
            wake=asyncio.Event(),
            destroy_self=self._destroy,
        )

    def _destroy(self) -> None:
        self.destroyed += 1

    async def start(self, jobs: int = 0, step: StepRecord = CHEAP) -> list[FakeJob]:
        """Queue and start jobs of one step. Return them when the dispatcher has recorded that their steps run."""
        added = [self.store.add(step) for _ in range(jobs)]
        await self.dispatcher.start()
        await asyncio.sleep(0.2)
        return added

    def states(self) -> list[JobState]:
        """Return the states of all jobs, in the order in which the jobs were added."""
        return [job.state for job in self.store.jobs.values()]

    @property
    def running(self) -> int:
        """The number of jobs that the dispatcher runs."""
        return self.dispatcher.stats()["jobs"]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield Bench()
    await cancel_other_tasks()


# Claiming


async def test_nothing_is_claimed_before_the_start(bench):
    bench.store.add()

    await asyncio.sleep(60)

    assert bench.store.calls == []


async def test_two_jobs_for_each_converter_are_claimed(bench):
    await bench.start(jobs=6, step=SLOW)
    await asyncio.sleep(60)

    assert bench.states() == [RUNS] * 4 + [WAITS] * 2
    assert bench.running == 4


async def test_a_node_that_joins_the_cluster_is_used(bench):
    await bench.start(jobs=20, step=SLOW)
    assert bench.running == 4

    bench.capacity = Capacity(6)
    await asyncio.sleep(60)

    assert bench.dispatcher.stats()["converters"] == 6
    assert bench.running == 12


async def test_a_dispatcher_that_may_have_many_converters_begins_with_the_jobs_of_a_few(bench):
    bench.capacity = Capacity(64)
    await bench.start()
    await asyncio.sleep(10)
    bench.converters.ready.clear()  # the cluster has no free CPU
    for _ in range(40):
        bench.store.add(SLOW)
    await asyncio.sleep(10)
    assert bench.running == 8  # two converters run

    bench.converters.ready.set()
    await asyncio.sleep(30)

    assert bench.running == 40


async def test_more_jobs_are_claimed_if_all_are_cheap(bench):
    await bench.start(jobs=20)
    await asyncio.sleep(5)

    assert bench.states() == [RUNS] * 16 + [WAITS] * 4
    assert bench.running == 16


async def test_a_job_that_takes_longer_than_a_quarter_of_a_second_is_not_cheap(bench):
    size = {"width": 940, "height": 940, "fit": "fill", "upscale": True}  # about 400 ms
    await bench.start(jobs=6, step=step_record("a", params={"effort": "small", "resize": size}))
    await asyncio.sleep(5)

    assert bench.running == 4


@pytest.mark.parametrize(("jobs", "number"), [(1, 1), (2, 2)])
async def test_a_job_is_divided_among_converters_if_it_is_alone(bench, jobs, number):
    for _ in range(jobs):
        bench.store.add(replace(SLOW, name="a"), step_record("b", params={"effort": "small", "resize": _HALF}))
    await bench.start()
    await asyncio.sleep(5)

    # If a job is divided, its second call waits for pixels of the first.
    assert len(bench.converters.steps[0]) == number


async def test_the_next_jobs_are_claimed_when_half_of_the_room_is_free(bench):
    await bench.start(jobs=6, step=SLOW)
    claims = len(bench.store.times("claim"))

    bench.converters.finish.set()
    await asyncio.sleep(0.3)

    assert bench.states() == [SUCCEEDED] * 6
    assert len(bench.store.times("claim")) - claims < 6


async def test_jobs_at_the_denoiser_make_room_for_others_up_to_the_limit(bench):
    bench.denoiser.jobs = 5

    await bench.start(jobs=9, step=SLOW)

    assert bench.running == 4 + SETTINGS.max_denoising


async def test_a_hint_wakes_the_dispatcher_before_the_next_poll(bench):
    await bench.start()
    job = bench.store.add()

    await bench.hints.publish(QUEUED, "")
    await asyncio.sleep(0.01)

    assert job.state == RUNS


async def test_a_listener_that_fails_begins_again(bench):
    bench.hints.listen_error = RuntimeError("a bug")
    await bench.start()
    await asyncio.sleep(3)
    job = bench.store.add()

    await bench.hints.publish(QUEUED, "")
    await asyncio.sleep(0.01)

    assert job.state == RUNS


async def test_without_a_hint_the_next_poll_finds_the_job(bench):
    await bench.start()
    job = bench.store.add()

    await asyncio.sleep(0.5)
    assert job.state == WAITS
    await asyncio.sleep(SETTINGS.poll_interval.total_seconds())

    assert job.state == RUNS


async def test_a_restarted_dispatcher_rescues_its_own_jobs_before_their_leases_run_out(bench):
    own = bench.store.add(state=RUNS, dispatcher="d1")
    other = bench.store.add(state=RUNS, dispatcher="d2")

    await bench.start()

    assert (own.crashes, own.attempt, own.dispatcher) == (1, 1, "d1")
    assert (other.crashes, other.attempt, other.dispatcher) == (0, 0, "d2")


async def test_jobs_of_a_claim_without_an_answer_return_to_the_queue_and_are_claimed_again(bench):
    """The claim is committed, but the dispatcher does not learn which jobs it has claimed."""
    bench.store.errors["claim"] = DatabaseDown("OperationalError")

    (job,) = await bench.start(jobs=1)
    assert (job.state, bench.running) == (RUNS, 0)
    await asyncio.sleep(1.1)

    assert (job.state, job.attempt, job.crashes, bench.running) == (RUNS, 2, 0, 1)
    assert (CHANGED, str(job.view.job.id)) in bench.hints.published


async def test_claiming_goes_on_after_an_outage(bench):
    bench.database.down = True
    (job,) = await bench.start(jobs=1)
    await asyncio.sleep(30)
    assert job.state == WAITS

    bench.database.down = False
    await asyncio.sleep(1.1)

    assert (job.state, job.attempt) == (RUNS, 1)


async def test_claiming_goes_on_after_an_unexpected_error(bench):
    bench.store.errors["claim"] = ValueError("a bug")
    await bench.start()

    job = bench.store.add()
    await asyncio.sleep(3)

    assert job.state == RUNS


# Running


async def test_a_job_is_settled_with_an_outcome_for_each_step(bench):
    job = bench.store.add(step_record("a"), step_record("b", op="jpg"))
    await bench.start()

    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert job.state == SUCCEEDED
    assert {outcome.step for _, outcome in job.outcomes} == {"a", "b"}
    assert bench.running == 0


async def test_a_job_whose_plan_is_no_longer_valid_fails(bench):
    c = step_record("c", inputs=("a",))  # the store skips this step when step a fails
    job = bench.store.add(step_record("a", op="no such operation"), step_record("b"), c)

    await bench.start()

    assert job.state == JobState.FAILED
    assert [outcome.step for _, outcome in job.outcomes] == ["a", "b"]
    assert all(isinstance(outcome, Failed) and isinstance(outcome.error, InvalidPlan) for _, outcome in job.outcomes)


async def test_outcomes_are_kept_during_an_outage_and_recorded_after_it(bench):
    (job,) = await bench.start(jobs=1)
    bench.database.down = True
    bench.converters.finish.set()
    await asyncio.sleep(20)
    assert job.state == RUNS

    bench.database.down = False
    await asyncio.sleep(1.1)

    assert job.state == SUCCEEDED


async def test_an_unexpected_error_of_a_plan_concerns_its_job_only(bench, monkeypatch):
    def build(claim: Claim, settings: Settings):
        if claim.id == bad.view.job.id:
            raise KeyError("a bug")
        return stored_plan(claim, settings)

    monkeypatch.setattr("actors.dispatcher.stored_plan", build)
    bad, good = bench.store.add(), bench.store.add()
    bench.converters.finish.set()

    await bench.start()
    await asyncio.sleep(1)

    assert (bad.state, good.state) == (RUNS, SUCCEEDED), "the sweeper rescues the other job and counts a crash"
    assert bench.running == 0


# Steps that several jobs ask for at the same time


class Twice:
    """Jobs whose steps have the same keys. Their artifacts are known to the store as soon as a job has made them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.store.refreshed = self._refreshed

    def add(self, *steps: StepRecord) -> FakeJob:
        return self.bench.store.add(*steps, source="same")

    def _refreshed(self, claim: Claim) -> Claim:
        """Return a claim with the artifacts of all steps that succeeded in any job, as the real store does."""
        succeeded = {
            outcome.stored.step_key: artifact_record(outcome.stored.step_key)
            for job in self.bench.store.jobs.values()
            for _, outcome in job.outcomes
            if isinstance(outcome, Succeeded)
        }
        ended = {
            outcome.step for _, outcome in self.bench.store.jobs[claim.id].outcomes if isinstance(outcome, Succeeded)
        }
        steps = tuple(
            replace(step, state=StepState.SUCCEEDED if step.name in ended else step.state) for step in claim.view.steps
        )
        return Claim(replace(claim.view, steps=steps), succeeded)


def kinds(job: FakeJob) -> dict[str, type[Outcome]]:
    """Return the kind of the last outcome of each step."""
    return {outcome.step: type(outcome) for _, outcome in job.outcomes}


async def test_a_step_of_two_jobs_runs_once(bench):
    twice = Twice(bench)
    first, second = twice.add(step_record("a")), twice.add(step_record("b"), step_record("c", op="jpg"))
    await bench.start()

    bench.converters.finish.set()
    await asyncio.sleep(1)

    assert (first.state, second.state) == (SUCCEEDED, SUCCEEDED)
    assert (kinds(first), kinds(second)) == ({"a": Succeeded}, {"b": Cached, "c": Succeeded})
    assert second.attempt == 1
    assert bench.dispatcher.stats()["shared_steps"] == 1


async def test_a_step_that_a_job_asks_for_twice_runs_once_and_its_readers_run_after_it(bench):
    job = Twice(bench).add(step_record("a"), step_record("b"), step_record("z", op="zip", inputs=("b",)))
    await bench.start()

    bench.converters.finish.set()
    await asyncio.sleep(1)

    assert job.state == SUCCEEDED
    assert kinds(job) == {"a": Succeeded, "b": Cached, "z": Succeeded}


async def test_a_job_does_not_wait_for_the_other_steps_of_the_job_that_runs_its_step(bench):
    twice = Twice(bench)
    first, second = twice.add(step_record("a"), SLOW), twice.add(step_record("b"))
    bench.converters.slow.add(SLOW.name)
    bench.converters.finish.set()
    await bench.start()
    await asyncio.sleep(1)

    assert (first.state, second.state) == (RUNS, SUCCEEDED)


async def test_if_the_running_step_fails_the_waiting_job_runs_it_itself(bench):
    twice = Twice(bench)
    first, second = twice.add(step_record("a")), twice.add(step_record("b"))
    await bench.start()
    first.move(JobState.CANCELLED)
    await bench.hints.publish(CANCELLED, str(first.view.job.id))
    await asyncio.sleep(0.5)

    bench.converters.finish.set()
    await asyncio.sleep(1)

    assert (first.state, second.state) == (JobState.CANCELLED, SUCCEEDED)
    assert kinds(second) == {"b": Succeeded}


async def test_after_a_failure_the_waiting_job_does_not_wait_for_the_rest_of_the_other_job(bench):
    twice = Twice(bench)
    first, second = twice.add(step_record("a"), SLOW), twice.add(step_record("b"))
    bench.converters.failing.add("a")
    bench.converters.slow.add(SLOW.name)
    bench.converters.finish.set()
    await bench.start()
    await asyncio.sleep(1)

    assert (first.state, second.state) == (RUNS, SUCCEEDED)
    assert len(bench.store.times("refresh")) == 1


async def test_a_failed_step_is_not_tried_again_in_the_same_attempt(bench):
    twice = Twice(bench)
    first, second = twice.add(step_record("a")), twice.add(step_record("b"), step_record("c", op="jpg"))
    bench.converters.failing.add("c")
    await bench.start()

    bench.converters.finish.set()
    await asyncio.sleep(1)

    assert first.state == SUCCEEDED
    assert [type(outcome) for _, outcome in second.outcomes if outcome.step == "c"].count(Failed) == 1
    assert kinds(second)["b"] == Cached


async def test_jobs_that_wait_for_a_step_of_another_job_make_room_for_others(bench):
    twice = Twice(bench)
    for _ in range(4):
        twice.add(SLOW)
    bench.store.add(CHEAP)
    await bench.start()
    await asyncio.sleep(1)

    assert bench.states() == [RUNS] * 5
    assert bench.converters.calls == 2


# Renewing


async def test_leases_are_renewed_at_the_renew_interval(bench):
    began = bench.time()
    await bench.start(jobs=1)
    await asyncio.sleep(35)

    assert [at - began for at in bench.store.times("renew")] == pytest.approx([10, 20, 30])


async def test_without_a_job_no_lease_is_renewed(bench):
    await bench.start()
    await asyncio.sleep(35)

    assert bench.store.times("renew") == []


async def test_during_an_outage_the_renewal_is_tried_each_second_and_no_job_stops(bench):
    (job,) = await bench.start(jobs=1)
    bench.database.down = True
    await asyncio.sleep(15)
    tries = bench.store.times("renew")
    assert len(tries) == 6  # one try each second, from the tenth second on
    bench.database.down = False
    await asyncio.sleep(30)

    assert (job.attempt, bench.running) == (1, 1)


async def test_a_lost_lease_stops_the_job_at_the_next_renewal_and_nothing_more_is_recorded(bench):
    lost, kept = await bench.start(jobs=2, step=SLOW)
    lost.lease_lost = True
    await asyncio.sleep(10)
    assert bench.running == 1
    assert len(bench.converters.destroyed) == 1  # this converter was making a step of the lost job

    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert [type(outcome) for _, outcome in lost.outcomes] == [Started]
    assert kept.state == SUCCEEDED


async def test_a_lost_lease_that_recording_finds_stops_the_job(bench):
    (job,) = await bench.start(jobs=1)
    job.lease_lost = True

    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert [type(outcome) for _, outcome in job.outcomes] == [Started]
    assert bench.running == 0


async def test_the_outcomes_of_an_old_attempt_are_not_recorded_for_the_new_one(bench):
    (job,) = await bench.start(jobs=1)
    job.move(WAITS)
    job.move(RUNS, "d2", attempts=1)

    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert [attempt for attempt, _ in job.outcomes] == [1]
    assert (job.state, job.dispatcher) == (RUNS, "d2")


# Cancelling


async def test_a_hint_stops_the_cancelled_job_at_once_and_no_other(bench):
    cancelled, other = await bench.start(jobs=2)
    cancelled.move(JobState.CANCELLED)

    await bench.hints.publish(CANCELLED, str(cancelled.view.job.id))
    await asyncio.sleep(0.1)
    assert bench.running == 1
    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert bench.states() == [JobState.CANCELLED, SUCCEEDED]
    assert other.attempt == 1


async def test_without_a_hint_the_next_renewal_stops_the_cancelled_job(bench):
    (job,) = await bench.start(jobs=1, step=SLOW)
    job.move(JobState.CANCELLED)

    await asyncio.sleep(10)

    assert bench.running == 0
    assert len(bench.converters.destroyed) == 1


# Retiring


async def test_a_retiring_dispatcher_claims_nothing_more(bench):
    await bench.start()

    await bench.dispatcher.retire(20)
    job = bench.store.add()
    await bench.hints.publish(QUEUED, "")
    await asyncio.sleep(60)

    assert job.state == WAITS
    assert bench.destroyed == 1


async def test_a_retiring_dispatcher_ends_when_its_jobs_have(bench):
    await bench.start(jobs=4)
    await bench.dispatcher.retire(20)
    await asyncio.sleep(5)
    assert bench.dispatcher.stats()["retiring"]
    assert bench.destroyed == 0

    bench.converters.finish.set()
    await asyncio.sleep(0.1)

    assert bench.states() == [SUCCEEDED] * 4
    assert bench.destroyed == 1


async def test_jobs_that_take_longer_than_the_timeout_return_to_the_queue_without_blame(bench):
    jobs = await bench.start(jobs=4)

    await bench.dispatcher.retire(20)
    await asyncio.sleep(21)

    assert bench.states() == [WAITS] * 4
    assert [job.crashes for job in jobs] == [0] * 4
    assert bench.hints.published.count((QUEUED, "")) == 4
    assert bench.destroyed == 1


async def test_a_dispatcher_that_retires_during_an_outage_ends_when_it_has_returned_its_jobs(bench):
    (job,) = await bench.start(jobs=1)
    bench.database.down = True
    await bench.dispatcher.retire(5)
    await asyncio.sleep(60)
    assert bench.destroyed == 0

    bench.database.down = False
    await asyncio.sleep(1.1)

    assert (job.state, job.crashes, bench.destroyed) == (WAITS, 0, 1)


async def test_jobs_of_a_claim_that_was_under_way_return_to_the_queue_too(bench):
    answer = threading.Event()
    bench.store.before_claim = lambda: answer.wait(10)
    job = bench.store.add()
    await bench.dispatcher.start()
    await asyncio.to_thread(time.sleep, 0.05)  # real time, because the loop's clock stands still in a claim

    await bench.dispatcher.retire(0)
    await asyncio.to_thread(time.sleep, 0.05)
    assert bench.destroyed == 0
    answer.set()
    await asyncio.sleep(1)

    assert (job.state, job.attempt) == (WAITS, 1)
    assert bench.destroyed == 1


async def test_a_second_call_of_retire_changes_nothing(bench):
    await bench.start(jobs=1)

    await bench.dispatcher.retire(20)
    await bench.dispatcher.retire(0)
    await asyncio.sleep(10)
    assert bench.destroyed == 0
    await asyncio.sleep(20)

    assert bench.destroyed == 1
