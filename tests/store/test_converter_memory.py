"""A converter with little memory, in a process of its own: what needs too much fails, and the rest is made."""

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

from dag.plan import Source
from dag.segments import Inputs, Order, segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.errors import OutOfMemory
from pixtools.jobs.outcomes import Done, Failed

PROGRAM = """
import pickle, sys
from actors.converter import Converter
settings, order = pickle.load(sys.stdin.buffer)
converter = Converter(settings)
converter.ready()
for _ in range(2):  # it goes on with the next order as if nothing had been
    outcomes = list(converter.run(order))
sys.stdout.buffer.write(pickle.dumps(outcomes))
"""

SIDE = 4_000  # decoded it takes 64 MB, and twice as much again to make it a little smaller
LARGE = {"op": "resize", "input": "source", "width": SIDE - 10}
DOCUMENT = {
    "large": LARGE,
    "a": {"op": "png", "input": "large"},
    "small": {"op": "png", "input": "source", "resize": {"width": 48}},
    "facts": {"op": "metadata", "input": "source"},
}


def run(settings: Any, memory_bytes: int) -> list[Any]:
    """Return what a converter with so much memory yields, the second time, having seen that it lives."""
    source = saved(np.full((SIDE, SIDE, 3), 77, np.uint8), "PNG")
    owner, sha256 = uuid.uuid4().hex, hashlib.sha256(source).hexdigest()
    key = f"sources/{owner}/{sha256}"
    BlobStore(settings).put(key, source, "image/png")
    plan = build(DOCUMENT, Source("IMG_1.png", sha256, (SIDE, SIDE)), 50, LIMITS)
    (segment,) = segments(plan, frozenset(DOCUMENT), 1)
    limited = settings.model_copy(update={"converter_memory_bytes": memory_bytes})
    order = Order(segment, Inputs(owner, key, len(source)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=pickle.dumps((limited, order)), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize(
    ("megabytes", "failing"),
    [
        pytest.param(1_000, set(), id="enough"),
        pytest.param(130, {"large"}, id="too little for one step"),
        pytest.param(40, {"large", "small"}, id="too little to decode"),
    ],
)
def test_a_step_that_runs_out_of_memory_fails_for_good_and_others_go_on(settings, megabytes, failing):
    outcomes = run(settings, megabytes * 1_000_000)

    failed = {outcome.step: outcome.error for outcome in outcomes if isinstance(outcome, Failed)}
    assert {step: type(error) for step, error in failed.items()} == dict.fromkeys(failing, OutOfMemory)
    assert all(not error.retryable and "PIXTOOLS_CONVERTER_MEMORY_BYTES" in error.detail for error in failed.values())
    passed_over = {"a"} if "large" in failing else set()
    assert {outcome.step for outcome in outcomes if isinstance(outcome, Done)} == set(DOCUMENT) - failing - passed_over
