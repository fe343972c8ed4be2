"""The states of the stored steps and the existing artifacts decide what an attempt has to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_stores import NOW, artifact_record, job_record, step_record

from actors.attempt import remaining, stored_plan
from dag.plan import Plan
from pixtools.errors import ArtifactLost, InvalidPlan
from pixtools.jobs.outcomes import Cached, Failed
from pixtools.jobs.records import ArtifactRecord, StepRecord
from pixtools.jobs.views import Claim, JobView
from pixtools.settings import Settings
from pixtools.states import StepState

SETTINGS = Settings(database_url="postgresql://none", redis_url="redis://none")

RESIZE = step_record("small", "resize", params={"width": 20})
PNG = step_record("picture", "png", ("small",))
METADATA = step_record("facts", "metadata")
ZIP = step_record("bundle", "zip", ("picture", "facts"))
STEPS = (RESIZE, PNG, METADATA, ZIP)


def claim(steps: tuple[StepRecord, ...] = STEPS, **artifacts: ArtifactRecord) -> Claim:
    """Return a claimed job. `artifacts` maps the names of its steps to their artifacts."""
    return Claim(JobView(job_record(), steps, artifacts), {})


def in_states(**states: StepState) -> tuple[StepRecord, ...]:
    return tuple(replace(step, state=states.get(step.name, step.state)) for step in STEPS)


def plan_of(claimed: Claim) -> Plan:
    return stored_plan(claimed, SETTINGS)


def test_all_steps_of_a_new_job_are_work():
    todo = remaining(plan_of(claim()), claim())

    assert (todo.work, todo.outcomes, todo.blobs) == ({"small", "picture", "facts", "bundle"}, (), {})


def test_a_step_is_cached_if_an_artifact_with_its_key_exists():
    plan = plan_of(claim())
    artifact = artifact_record(plan.by_name["picture"].key)

    todo = remaining(plan, replace(claim(), reusable={artifact.step_key: artifact}))

    assert todo.outcomes == (Cached("picture", artifact.id), Cached("small", None))
    assert todo.work == {"facts", "bundle"}
    assert todo.blobs == {"picture": artifact.blob_key}


def test_a_step_with_a_result_runs_again_if_another_step_needs_its_pixels():
    claimed = claim(in_states(small=StepState.SUCCEEDED))

    todo = remaining(plan_of(claimed), claimed)

    assert todo.work == {"small", "picture", "facts", "bundle"}
    assert todo.outcomes == ()


def test_steps_with_a_file_do_not_run_again():
    artifact = artifact_record("key")
    claimed = claim(in_states(small=StepState.SUCCEEDED, picture=StepState.SUCCEEDED), picture=artifact)

    todo = remaining(plan_of(claimed), claimed)

    assert todo.work == {"facts", "bundle"}
    assert todo.blobs == {"picture": artifact.blob_key}


def test_a_step_that_reads_a_lost_file_fails():
    lost = artifact_record("key", lost_at=NOW)
    claimed = claim(in_states(small=StepState.SUCCEEDED, picture=StepState.SUCCEEDED), picture=lost)

    todo = remaining(plan_of(claimed), claimed)

    (failed,) = todo.outcomes
    assert isinstance(failed, Failed)
    assert (failed.step, type(failed.error)) == ("bundle", ArtifactLost)
    assert todo.work == {"facts"}
    assert todo.blobs == {}


def test_the_readers_of_a_failed_step_do_not_run():
    steps = in_states(picture=StepState.FAILED, bundle=StepState.SKIPPED)
    claimed = claim(steps)

    todo = remaining(plan_of(claimed), claimed)

    assert todo.work == {"facts"}
    assert todo.outcomes == (Cached("small", None),)


def test_the_stored_plan_has_the_parameters_of_the_stored_steps():
    plan = plan_of(claim())

    assert plan.by_name["small"].size == (20, 15)
    assert plan.by_name["bundle"].inputs == ("picture", "facts")
    assert plan.by_name.keys() == {"small", "picture", "facts", "bundle"}


@pytest.mark.parametrize("step", [replace(PNG, op="gone"), replace(RESIZE, params={"width": 0})])
def test_a_plan_that_is_no_longer_valid_raises_invalid_plan(step):
    with pytest.raises(InvalidPlan):
        stored_plan(claim((RESIZE, step) if step.name == "picture" else (step, PNG)), SETTINGS)


def test_a_lower_limit_of_sides_stops_no_job_whose_pictures_are_within_it():
    wide = replace(RESIZE, params={"width": 9_000})  # the step does not upscale, so the picture keeps its size

    plan = stored_plan(claim((wide, PNG)), SETTINGS.model_copy(update={"max_side": 8_000}))

    assert plan.by_name["small"].size == plan.source.size
