"""A worker that breaks the rules of the exchange is ended, and its converter runs no further work item."""

from __future__ import annotations

import hashlib
import json
import math
import uuid

import pytest
from images import LIMITS, camera_jpeg

from actors.converter import Converter
from dag.messages import Inputs, SourceWork
from dag.plan import Source
from dag.segments import plan_segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.errors import ResultsTooLarge
from pixtools.jobs.outcomes import Failed, Succeeded
from pixtools.sandbox.process import ChildDied

SOURCE = camera_jpeg()
STEPS = {"a": {"op": "webp", "input": "source"}, "t": {"op": "resize", "input": "source", "width": 5, "keep": True}}
PUT = {"kind": "put", "step": "a", "bytes": 3, "width": 1, "height": 1, "result": None}
PIXELS = {
    "kind": "pixels", "step": "source", "inference": None, "shape": [1, 2, 2, 3], "dtype": "uint8", "icc": None,
    "exif": "", "xmp": "", "iptc": "", "durations": [], "loops": 0, "reduced_from": None,
}  # fmt: skip
FILE = "abc"
READY = {"kind": "head ready"}


def script():
    """Prepare a worker that sends the messages in the source of its work item. It waits after each FILE."""

    def work(connection):
        while True:
            work_item, _ = connection.recv()
            connection.send_bytes(json.dumps({"kind": "get", "key": work_item.inputs.source_key}).encode())
            assert connection.recv() is None
            for message in json.loads(connection.recv_bytes()):
                if message == "sleep":
                    while True:
                        pass
                connection.send_bytes(message.encode() if isinstance(message, str) else json.dumps(message).encode())
                if message == FILE:
                    connection.recv()  # the answer to a Put

    return work


@pytest.fixture
def run(settings):
    """Return a function that runs the worker with these messages, and returns what the converter yields."""
    blobs, converters = BlobStore(settings), []

    def run(messages, *, bytes_left=10**9, owner=None, shares_head=False):
        owner = owner or uuid.uuid4().hex
        source = json.dumps(messages).encode()
        key = f"sources/{owner}/{hashlib.sha256(source).hexdigest()}"
        blobs.put(key, source, "image/jpeg")
        plan = build(STEPS, Source("a", "ab" * 32, (6000, 4000)), 50, LIMITS)
        segment, *others = plan_segments(plan, frozenset(STEPS), 2 if shares_head else 1)
        assert bool(others) == shares_head
        if not converters:
            converters.append(Converter(settings, "test_worker_rules:script"))
        return list(converters[0].run(SourceWork(segment, Inputs(owner, key, len(source), {}, bytes_left))))

    yield run
    for converter in converters:
        assert not converter._worker.is_running, "the worker was not ended"


MADE = {"kind": "made", "step": "a", "run_ms": 1}
BROKEN = {
    "no JSON": ["{"],
    "an unknown kind": [{"kind": "run"}],
    "a field too many": [READY | {"pickle": "x"}],
    "a foreign blob": [{"kind": "get", "key": "sources/other/secret"}],
    "a foreign step": [PUT | {"step": "b"}],
    "a second outcome": [PUT, FILE, MADE, MADE],
    "a success without its file": [MADE],
    "a second file": [PUT, FILE, PUT, FILE],
    "an empty piece": [PUT, ""],
    "a file without an end": [PUT | {"bytes": 10**15}, ""],
    "a head that is ready twice": [READY, READY],
    "pixels that nobody waits for": [READY, PIXELS, "x" * 12],
    "a duration beyond the column": [PUT, FILE, MADE | {"run_ms": 10**25}],
    "a side beyond the column": [PUT | {"width": 2**31}],
    "a result with a NUL": [PUT | {"result": {"a": "\0"}}],
    "a result that is no number": [json.dumps(PUT | {"result": {"a": math.nan}})],
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_message_ends_the_worker(run, name):
    with pytest.raises(ChildDied):
        run(BROKEN[name])


@pytest.mark.parametrize(
    ("shape", "content"),
    [([1, 2, 2, 3], "x" * 11), ([1, 2, 2, 3], "x" * 13), ([10**6, 10**6, 10**6, 4], "x"), ([1, 10**30, 1, 1], "x")],
)
def test_pixels_of_another_size_than_announced_end_the_worker(run, shape, content):
    with pytest.raises(ChildDied):
        run([READY, PIXELS | {"shape": shape}, content], shares_head=True)


def test_a_worker_that_does_not_end_its_work_item_is_ended(run, monkeypatch):
    monkeypatch.setattr("actors.worker_conversation._END_TIMEOUT_S", 0.5)
    steps = [PUT, FILE, MADE, PUT | {"step": "t"}, FILE, MADE | {"step": "t"}, "sleep"]
    with pytest.raises(ChildDied):
        run(steps)


def test_a_file_that_does_not_fit_the_job_fails_its_step_only(settings):
    """The real worker obeys the rules, so it lives on."""
    blobs, owner, converter = BlobStore(settings), uuid.uuid4().hex, Converter(settings)
    key = f"sources/{owner}/x"
    blobs.put(key, SOURCE, "image/jpeg")
    (segment,) = plan_segments(build(STEPS, Source("a", "ab" * 32, (96, 64)), 50, LIMITS), frozenset(STEPS), 1)

    def outcomes(bytes_left, owner=owner):
        items = converter.run(SourceWork(segment, Inputs(owner, key, len(SOURCE), {}, bytes_left)))
        return {item.step: item for item in items if isinstance(item, Succeeded | Failed)}

    sizes = {name: outcome.stored.bytes for name, outcome in outcomes(10**9).items()}
    small = min(sizes, key=sizes.get)
    found = outcomes(sizes[small])
    assert isinstance(found[small], Succeeded)
    assert {type(outcome.error) for name, outcome in found.items() if name != small} == {ResultsTooLarge}

    items = converter.run(SourceWork(segment, Inputs(owner, key, len(SOURCE))))
    next(items)
    next(items)
    items.close()  # nobody reads the rest
    assert len(outcomes(10**9)) == len(STEPS)

    first = converter._worker.pid
    outcomes(10**9)
    assert converter._worker.pid == first
    outcomes(10**9, owner="another")
    assert converter._worker.pid != first, "a worker that has read pictures of one owner reads none of another"
    converter.close()
