"""Turns the steps of a plan into records, and records of an accepted job into what planning needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from dag.plan import PartInfo, Plan, Source
from dag.process_form import is_asked_for
from pixtools.jobs.records import JobRecord, PartRecord, StepRecord
from pixtools.jobs.submission import NewStep
from pixtools.jobs.views import JobView
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Composite
from pixtools.operations.zip import ZIP


def document_of(steps: Iterable[StepRecord]) -> dict[str, dict[str, Any]]:
    """Return the `steps` document of stored steps."""
    return {step.name: {"op": step.op, "input": list(step.inputs), **step.params} for step in steps}


def steps_to_store(plan: Plan) -> tuple[NewStep, ...]:
    """Return the steps of a plan as a new job stores them."""
    return tuple(
        NewStep(step.name, step.operation.name, step.inputs, step.params.given(), step.key) for step in plan.steps
    )


def source_of(job: JobRecord, parts: Iterable[PartRecord]) -> Source:
    """Return what planning needs to know about the source of a job, and about these parts."""
    infos = {
        part.name: PartInfo(part.sha256, (part.width, part.height), part.frames, part.media_type, part.bytes)
        for part in parts
    }
    size = (job.source_width, job.source_height)
    return Source(job.source_name, job.source_sha256, size, job.source_frames, infos, job.source_media_type)


def archive_in(view: JobView) -> str | None:
    """Return the step of a job whose file is the archive already, or None. Every job that makes an archive has one."""
    archived = set(archived_steps(view))
    return next(
        (
            step.name
            for step in view.steps
            if step.op == ZIP.name and set(step.inputs) == archived and _has_file(step, view)
        ),
        None,
    )


def archived_steps(view: JobView) -> list[str]:
    """Return the steps whose files belong into the archive of a job.

    These are all files that exist. Bundles are left out if there is another file, because they contain other files. A
    job of `POST /api/process` has files that its client does not know.
    """
    with_file = [
        step for step in view.steps if _has_file(step, view) and (is_asked_for(step.name) or not view.job.is_process)
    ]
    single = [step.name for step in with_file if OPERATIONS[step.op].max_inputs is not None]
    return single or [step.name for step in with_file]


def needed_for(names: Collection[str], view: JobView) -> list[StepRecord]:
    """Return the steps with these names, and the steps that they read directly or through others, in running order."""
    needed = set(names)
    for step in reversed(view.steps):
        if step.name in needed:
            needed.update(step.inputs)
    return [step for step in view.steps if step.name in needed]


def parts_for(steps: Iterable[StepRecord], view: JobView) -> list[PartRecord]:
    """Return the parts that steps use."""
    used: set[str] = set()
    for step in steps:
        operation = OPERATIONS[step.op]
        if isinstance(operation, Composite):
            used.update(operation.parts(operation.params.model_validate(step.params)).values())
    return [part for part in view.parts if part.name in used]


def free_name(wanted: str, names: Iterable[str]) -> str:
    """Return `wanted`, or a similar name that is not in `names`. Names that differ only in case count as equal."""
    taken = {name.lower() for name in names}
    return next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)


def _has_file(step: StepRecord, view: JobView) -> bool:
    artifact = view.artifacts.get(step.name)
    return artifact is not None and artifact.lost_at is None
