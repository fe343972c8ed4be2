"""Counts and times of the steps and jobs of a dispatcher. Ray exports them to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ray.util.metrics import Counter, Histogram

from pixtools.jobs.outcomes import Cached, Crashed, Failed, Outcome, Started, Succeeded
from pixtools.jobs.views import Claim
from pixtools.states import JobState

_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]


class JobMetrics:
    """The metrics of one dispatcher."""

    def __init__(self) -> None:
        self._jobs = Counter("pixtools_jobs_ended_total", "Jobs that ended, by state.", ("state",))
        self._steps = Counter("pixtools_steps_total", "Outcomes of steps.", ("operation", "result"))
        self._failures = Counter("pixtools_step_failures_total", "Failed tries of steps, by error code.", ("code",))
        self._bytes = Counter("pixtools_artifact_bytes_total", "Bytes of new artifacts.", ("operation",))
        self._wait, self._run, self._whole = (
            Histogram(f"pixtools_step_{name}_seconds", description, boundaries=_SECONDS, tag_keys=("operation",))
            for name, description in (
                ("wait", "Time from the submission of a job to the first start of a step."),
                ("run", "Time that a successful step took."),
                ("end_to_end", "Time from the submission of a job to the success of a step."),
            )
        )

    def recorded(self, claim: Claim, outcomes: Iterable[Outcome], state: JobState | None) -> None:
        """Count outcomes that were recorded. `state` is the new state of the job if they settled the attempt."""
        operations = {step.name: step.op for step in claim.view.steps}
        age_s = (datetime.now(UTC) - claim.view.job.created_at).total_seconds()
        for outcome in outcomes:
            self._count(outcome, {"operation": operations[outcome.step]}, max(0.0, age_s), claim.attempt)
        if state is not None:
            self._jobs.inc(1, {"state": "retried" if state is JobState.QUEUED else state})

    def _count(self, outcome: Outcome, tags: dict[str, str], age_s: float, attempt: int) -> None:
        match outcome:
            case Started(ago_s=ago_s):
                if attempt == 1:
                    self._wait.observe(max(0.0, age_s - ago_s), tags)
                return
            case Succeeded(stored=stored, run_ms=run_ms):
                result = "succeeded"
                self._run.observe(run_ms / 1000, tags)
                self._whole.observe(age_s, tags)
                if stored is not None and stored.bytes:  # Ray counts no zeros
                    self._bytes.inc(stored.bytes, tags)
            case Failed(error=error):
                result = "failed"
                self._failures.inc(1, {"code": error.code})
            case Crashed():
                result = "crashed"
            case Cached(artifact_id=artifact_id):
                result = "unneeded" if artifact_id is None else "cached"
        self._steps.inc(1, tags | {"result": result})
