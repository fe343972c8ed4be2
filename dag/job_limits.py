"""Checks the limits of a whole job. The limits of each step are checked when its parameters are read."""

from __future__ import annotations

from dag.plan import Plan
from pixtools.errors import Fault, InvalidPlan, pointer
from pixtools.limits import JobLimits


def require_within_limits(plan: Plan, limits: JobLimits, field: str) -> None:
    """Check the limits of a new job. A job that was accepted before stays valid if the settings change.

    `field` is the form field that holds the steps. Raises InvalidPlan with a fault for each limit that `plan` exceeds.
    """
    mistakes = [
        mistake
        for mistake in (_too_many_pixels(plan, limits.pixels), _too_many_kept_steps(plan, limits.kept_steps))
        if mistake is not None
    ]
    if mistakes:
        raise InvalidPlan(" ".join(mistakes), tuple(Fault(pointer(field), mistake) for mistake in mistakes))


def _too_many_pixels(plan: Plan, limit: int) -> str | None:
    pixels = sum(plan.pixels_of(step) for step in plan.steps if step.leaves_file)
    if pixels <= limit:
        return None
    return (
        f"The steps leave pictures of {pixels / 1e6:,.6g} megapixels together; at most {limit / 1e6:,.6g} are accepted "
        "(PIXTOOLS_MAX_JOB_PIXELS). Use fewer steps or smaller pictures, or send several jobs."
    )


def _too_many_kept_steps(plan: Plan, limit: int) -> str | None:
    kept = sum(step.leaves_file and step.makes_pixels for step in plan.steps)
    if kept <= limit:
        return None
    return (
        f"{kept} steps store their pixels without loss; at most {limit} are accepted (PIXTOOLS_MAX_KEPT_STEPS). These "
        "are the denoise steps, the steps with `keep`, and the steps whose pixels no other step reads. Let an encoder "
        "such as webp read the pixels, or send several jobs."
    )
