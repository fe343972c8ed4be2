"""The limits of a whole job are checked on its plan, and a refusal names the setting."""

from __future__ import annotations

from typing import Any

import pytest
from images import LIMITS
from plans import SHA

from dag.job_limits import require_within_limits
from dag.plan import Plan, Source
from dag.specification import build
from pixtools.errors import InvalidPlan
from pixtools.limits import JobLimits

STEPS = {
    "t": {"op": "resize", "input": "source", "width": 50},  # an encoder reads its pixels, so it leaves no file
    "u": {"op": "grayscale", "input": "source", "keep": True},
    "v": {"op": "flip", "input": "u"},
    "d": {"op": "denoise", "input": "source"},
    "a": {"op": "webp", "input": "t"},
    "b": {"op": "webp", "input": "d", "resize": {"width": 10}},
    "exif": {"op": "metadata", "input": "source"},
    "all": {"op": "zip", "input": ["a", "b", "exif"]},
}
SOURCE_PIXELS = 100 * 80
LEFT = 3 * SOURCE_PIXELS + 50 * 40 + 10 * 8  # u, v and d; a; b


def plan(document: dict[str, Any], frames: int = 1) -> Plan:
    return build(document, Source("x.png", SHA, (100, 80), frames), 50, LIMITS)


def refusal(document: dict[str, Any], limits: JobLimits, *, frames: int = 1) -> InvalidPlan:
    with pytest.raises(InvalidPlan) as refused:
        require_within_limits(plan(document, frames), limits, "steps")
    return refused.value


def test_a_job_at_its_limits_is_accepted():
    require_within_limits(plan(STEPS), JobLimits(LEFT, 3), "steps")


def test_the_pictures_that_steps_leave_are_added_up():
    error = refusal(STEPS, JobLimits(LEFT - 1, 3))

    assert "PIXTOOLS_MAX_JOB_PIXELS" in error.detail
    assert [(fault.pointer, fault.detail) for fault in error.faults] == [("/steps", error.detail)]


def test_the_frames_of_a_picture_count_as_far_as_the_file_has_them():
    document = {name: {"op": name, "input": "source"} for name in ("png", "jpg")}  # a JPG has only the first frame

    require_within_limits(plan(document, frames=10), JobLimits(11 * SOURCE_PIXELS, 0), "steps")
    refusal(document, JobLimits(11 * SOURCE_PIXELS - 1, 0), frames=10)


def test_steps_whose_pixels_are_stored_without_loss_are_counted():
    error = refusal(STEPS, JobLimits(LEFT, 2))

    assert error.detail.startswith("3 steps store their pixels without loss; at most 2 are accepted")
    assert "PIXTOOLS_MAX_KEPT_STEPS" in error.detail


def test_every_exceeded_limit_is_named():
    error = refusal(STEPS, JobLimits(1, 1))

    assert len(error.faults) == 2


def test_the_work_of_a_job_is_the_source_and_every_picture():
    document = {"t": STEPS["t"], "a": STEPS["a"], "exif": STEPS["exif"]}

    assert plan(document, frames=3).work_pixels == 3 * (SOURCE_PIXELS + 50 * 40 + 50 * 40)
