"""Prepares an attempt of a job: builds the plan from the stored steps, and finds the steps that still have to run."""

from __future__ import annotations

from dataclasses import dataclass

from dag.plan import Plan, PlannedStep
from dag.segments import reads_artifacts
from dag.specification import build
from dag.stored_plan import document_of, source_of
from pixtools.errors import ArtifactLost
from pixtools.jobs.outcomes import Cached, Failed
from pixtools.jobs.records import ArtifactRecord
from pixtools.jobs.views import Claim
from pixtools.settings import Settings
from pixtools.states import STEP_DONE, STEP_ENDED


@dataclass(frozen=True)
class Remaining:
    """The remaining tasks of an attempt.

    `outcomes` holds the outcomes that are known before any step runs. They must be recorded in the given order. `work`
    holds the names of the steps to run. `blobs` holds the blob keys of existing artifacts, and `blob_bytes` their
    sizes, by step name.
    """

    outcomes: tuple[Cached | Failed, ...]
    work: frozenset[str]
    blobs: dict[str, str]
    blob_bytes: dict[str, int]


def stored_plan(claim: Claim, settings: Settings) -> Plan:
    """Build the plan of a claimed job from its stored steps. Most checks of the submission run again.

    Raises InvalidPlan if the present code or settings do not allow the plan any more, although the plan was valid when
    the job was accepted. If a step draws text, the function is slow, because the checks load the font.
    """
    view = claim.view
    document, source = document_of(view.steps), source_of(view.job, view.parts)
    return build(document, source, len(document), settings.image_limits(), settings.weights_sha256, is_stored=True)


def remaining(plan: Plan, claim: Claim, later: frozenset[str] = frozenset()) -> Remaining:
    """Find the remaining tasks. They follow from the states of the stored steps and from the existing artifacts.

    The steps in `later`, and the steps that read them, are left for a later call.

    - A step is cached if an artifact with the key of the step exists.
    - A step fails if it reads a lost file, because no attempt makes this file again.
    - A step is cached without an artifact if it would only make pixels that no other step needs any more.
    - Every other open step has to run. A step that has a result runs again if another step needs its pixels.
    """
    ended = frozenset(step.name for step in claim.view.steps if step.state in STEP_ENDED)
    done = frozenset(step.name for step in claim.view.steps if step.state in STEP_DONE)
    later -= ended
    cached = _cached(plan, claim, ended)
    artifacts = {name: artifact for name, artifact in claim.view.artifacts.items() if artifact.lost_at is None} | cached
    blobs = {name: artifact.blob_key for name, artifact in artifacts.items()}
    blob_bytes = {name: artifact.bytes for name, artifact in artifacts.items()}

    open_steps = [step for step in plan.steps if step.name not in ended.union(cached)]
    stuck = _stuck(open_steps, claim)
    work = plan.work(done.union(cached), held=(ended - done).union(stuck, later), filed=frozenset(blobs))
    # A step is unneeded if no other step reads its pixels any more. A step in `later` may still read them. So while
    # there are steps in `later`, the function reports no unneeded step.
    unneeded = [] if later else [step.name for step in open_steps if step.name not in work.union(stuck)]
    return Remaining(_known_outcomes(cached, stuck, unneeded), work, blobs, blob_bytes)


def _cached(plan: Plan, claim: Claim, ended: frozenset[str]) -> dict[str, ArtifactRecord]:
    """Return the existing artifacts of open steps, by step name. A step with an existing artifact need not run."""
    return {
        step.name: claim.reusable[step.key]
        for step in plan.steps
        if step.leaves_file and step.name not in ended and step.key in claim.reusable
    }


def _stuck(open_steps: list[PlannedStep], claim: Claim) -> list[str]:
    """Return the open steps that read the file of a lost artifact."""
    lost = {name for name, artifact in claim.view.artifacts.items() if artifact.lost_at is not None}
    return [step.name for step in open_steps if reads_artifacts(step) and lost.intersection(step.inputs)]


def _known_outcomes(
    cached: dict[str, ArtifactRecord], stuck: list[str], unneeded: list[str]
) -> tuple[Cached | Failed, ...]:
    error = ArtifactLost("Submit the image again. The new job makes the missing file again.")
    return (
        *(Cached(name, artifact.id) for name, artifact in cached.items()),
        *(Failed(name, error) for name in stuck),
        *(Cached(name, None) for name in unneeded),
    )
