"""A converter with little memory runs in a separate process. A step that needs more memory fails. Others succeed."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest
from images import LIMITS, saved

from dag.messages import Inputs, SourceWork
from dag.plan import Source
from dag.segments import plan_segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.errors import OutOfMemory
from pixtools.jobs.outcomes import Failed, Succeeded

PROGRAM = """
import pickle, sys
from actors.converter import Converter
settings, work_item = pickle.load(sys.stdin.buffer)
converter = Converter(settings)
converter.ready()
for _ in range(2):  # running out of memory must not affect the next work item
    outcomes = list(converter.run(work_item))
sys.stdout.buffer.write(pickle.dumps(outcomes))
"""

SIDE = 4_000  # the decoded picture takes 64 MB, and its reduction by 10 pixels takes another 128 MB
LARGE = {"op": "resize", "input": "source", "width": SIDE - 10}
DOCUMENT = {
    "large": LARGE,
    "a": {"op": "png", "input": "large"},
    "small": {"op": "png", "input": "source", "resize": {"width": 48}},
    "facts": {"op": "metadata", "input": "source"},
}


def run(settings: Any, memory_bytes: int) -> list[Any]:
    """Run a work item twice in a converter with this memory limit. Return the items of the second run.

    Fails if the converter dies.
    """
    source = saved(np.full((SIDE, SIDE, 3), 77, np.uint8), "PNG")
    owner, sha256 = uuid.uuid4().hex, hashlib.sha256(source).hexdigest()
    key = f"sources/{owner}/{sha256}"
    BlobStore(settings).put(key, source, "image/png")
    plan = build(DOCUMENT, Source("IMG_1.png", sha256, (SIDE, SIDE)), 50, LIMITS)
    (segment,) = plan_segments(plan, frozenset(DOCUMENT), 1)
    limited = settings.model_copy(update={"converter_memory_bytes": memory_bytes})
    work_item = SourceWork(segment, Inputs(owner, key, len(source)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=pickle.dumps((limited, work_item)), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize(
    ("megabytes", "failing"),
    [
        pytest.param(1_000, set(), id="enough for all steps"),
        pytest.param(130, {"large"}, id="too little for one step"),
        pytest.param(40, {"large", "small"}, id="too little to decode"),
    ],
)
def test_a_step_that_runs_out_of_memory_fails_permanently_and_the_others_run(settings, megabytes, failing):
    outcomes = run(settings, megabytes * 1_000_000)

    failed = {outcome.step: outcome.error for outcome in outcomes if isinstance(outcome, Failed)}
    assert {step: type(error) for step, error in failed.items()} == dict.fromkeys(failing, OutOfMemory)
    assert all(not error.retryable and "PIXTOOLS_CONVERTER_MEMORY_BYTES" in error.detail for error in failed.values())
    skipped = {"a"} if "large" in failing else set()
    assert {outcome.step for outcome in outcomes if isinstance(outcome, Succeeded)} == set(DOCUMENT) - failing - skipped
