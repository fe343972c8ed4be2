"""The worker of a converter cannot open files. The tests check that no format and no operation needs to open one."""

from __future__ import annotations

import hashlib
import io
import uuid

import pytest
from images import LIMITS, photo, saved
from specimens import SPECIMENS

from actors.converter import Converter
from dag.messages import Inputs, SourceWork
from dag.plan import Source
from dag.segments import plan_segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.imaging.header import inspect
from pixtools.jobs.outcomes import Failed, Succeeded

ENCODE = {op: {"op": op, "input": "source"} for op in ("jpg", "png", "webp", "avif", "metadata")}
CHANGE = {
    "best": {"op": "jpg", "input": "source", "target": 70},
    "small": {"op": "webp", "input": "source", "max_bytes": 20_000},
    "palette": {"op": "png", "input": "source", "palette": 16},
    "text": {"op": "watermark", "input": "source", "text": "Γειά שלום नमस्ते"},
    "srgb": {"op": "avif", "input": "source", "color": "srgb"},
    "blur": {"op": "blur", "input": "source", "radius": 2},
    "sharp": {"op": "sharpen", "input": "source"},
    "grey": {"op": "grayscale", "input": "source"},
    "turn": {"op": "rotate", "input": "source", "degrees": 7},
    "flip": {"op": "flip", "input": "source", "direction": "horizontal"},
    "crop": {"op": "crop", "input": "source", "width": 10, "height": 10},
    "size": {"op": "resize", "input": "source", "width": 10},
}


@pytest.fixture(scope="module")
def outcomes_of(settings):
    """Return a function that runs all steps of a document on a source, and returns the outcomes."""
    converter, blobs, owner = Converter(settings), BlobStore(settings), uuid.uuid4().hex

    def run(document, data):
        header = inspect(io.BytesIO(data), LIMITS)
        sha256 = hashlib.sha256(data).hexdigest()
        blobs.put(f"sources/{owner}/{sha256}", data, header.media_type)
        size = (header.width, header.height)
        plan = build(document, Source("a", sha256, size, header.frames, media_type=header.media_type), 50, LIMITS)
        (segment,) = plan_segments(plan, frozenset(document), 1)
        inputs = Inputs(owner, f"sources/{owner}/{sha256}", len(data))
        items = converter.run(SourceWork(segment, inputs))
        return [item for item in items if isinstance(item, Succeeded | Failed)]

    yield run
    converter.close()


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_format_is_read_and_written(outcomes_of, name):
    outcomes = outcomes_of(ENCODE, SPECIMENS[name]().data)

    assert {outcome.step for outcome in outcomes if isinstance(outcome, Succeeded)} == set(ENCODE), outcomes


def test_every_operation_runs(outcomes_of):
    outcomes = outcomes_of(CHANGE, saved(photo(300, 200), "PNG"))

    assert {outcome.step for outcome in outcomes if isinstance(outcome, Succeeded)} == set(CHANGE), outcomes
