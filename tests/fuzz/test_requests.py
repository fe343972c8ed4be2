"""Fuzz the reading of requests for new jobs. Each request has to be accepted or refused at a small cost.

`cost_target.py` describes the bounds and the settings.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from cost_target import Target, run
from hostile_requests import multipart_body, short_form_texts, steps_text
from images import LIMITS
from measured_process import MeasuredProcess
from starlette.requests import Request

from dag.plan import PartInfo, Plan, Source
from dag.segment_memory import footprint
from dag.segments import plan_segments
from dag.short_form import parse_short
from dag.specification import parse
from pixtools.errors import NotFound, PixToolsError
from pixtools.operations import OPERATIONS
from serve.multipart import read_form
from serve.uploads import checked_form

SOURCE = Source("IMG_1.jpg", "ab" * 32, (4000, 3000))
SOURCE_AND_LOGO = replace(SOURCE, parts={"logo": PartInfo("cd" * 32, (100, 100))})


def parse_steps(text: str) -> None:
    """Read a `steps` document as the ingress does, and divide a valid plan as the dispatcher does."""
    source = SOURCE_AND_LOGO if '"logo"' in text else SOURCE  # a part that no step uses would be a mistake
    _check_problem(lambda: _divide(parse(text, source, 50, LIMITS)))


def parse_short_form(texts: tuple[str, str | None]) -> None:
    """Read a short form as the ingress does, and divide a valid plan as the dispatcher does."""
    source = SOURCE_AND_LOGO if '"logo"' in (texts[1] or "") else SOURCE
    _check_problem(lambda: _divide(parse_short(*texts, source, 50, LIMITS)))


def _divide(plan: Plan) -> None:
    steps = frozenset(plan.by_name)
    for converters in (1, 16):
        for segment in plan_segments(plan, steps, converters):
            footprint(plan, segment, 1_000_000)
    for name in plan.work(frozenset(), frozenset()):
        plan.waiting_for(name, frozenset())


def read_multipart(request: tuple[str, list[bytes]]) -> None:
    """Read a multipart body as the ingress does. Up to 1 MB of files and 5 parts are accepted."""
    _check_problem(lambda: asyncio.run(_read(*request)))


async def _read(content_type: str, chunks: list[bytes]) -> None:
    messages = iter(chunks)

    async def receive() -> dict[str, Any]:
        chunk = next(messages, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    request = Request({"type": "http", "headers": [(b"content-type", content_type.encode("latin-1"))]}, receive)
    content = await read_form(request, ("steps", "operations", "operation_params"), 6, 1_000_000)
    try:
        checked_form(content, 5)
    finally:
        await content.close()


def _check_problem(read: Callable[[], object]) -> None:
    """Check that a refused request has a small problem, which can be sent and stored."""
    try:
        read()
    except PixToolsError as error:
        body = json.dumps(error.problem(), ensure_ascii=False).encode()
        if len(body) > 65_536 or b"\\u0000" in body or not 400 <= error.status < 500:
            raise AssertionError(f"the problem has {len(body)} bytes and the status {error.status}") from error
        raise


def size_of_text(text: str | None) -> int:
    return len((text or "").encode(errors="surrogatepass"))


def time_for_watermarks(text: str) -> float:
    """Return the time for measuring texts with their font, about 10 ms for each."""
    return 0.03 * text.count('"text"')


def size_of_body(request: tuple[str, list[bytes]]) -> int:
    return sum(map(len, request[1]))


def time_for_pieces(request: tuple[str, list[bytes]]) -> float:
    """Return the time for chunks, and for the bytes outside files, which the parser may have to read one by one."""
    return 20e-6 * len(request[1]) + 1e-6 * min(size_of_body(request), 330_000)


ODD_STEPS = [{"a": {"op": op, "input": "source", "odd": 1}} for op in OPERATIONS]

TARGETS = {
    "steps": Target(
        parse_steps,
        steps_text,
        size_of_text,
        [*map(json.dumps, ODD_STEPS), json.dumps({"a": {"op": "watermark", "input": "source", "text": "Text"}})],
        5e-6,
        100,
        time_for_watermarks,
    ),
    "short form": Target(
        parse_short_form,
        short_form_texts,
        lambda texts: sum(map(size_of_text, texts)),
        [
            ('["watermark"]', '{"watermark": {"text": "Text"}}'),
            *((json.dumps([op]), f'{{"{op}": {{"odd": 1}}}}') for op in OPERATIONS),
        ],
        5e-6,
        100,
        lambda texts: time_for_watermarks(texts[1] or ""),
    ),
    "multipart": Target(
        read_multipart,
        multipart_body,
        size_of_body,
        [multipart_body(Random(number)) for number in range(10)],
        0.05e-6,
        1,
        time_for_pieces,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_hostile_request_is_answered_at_a_small_cost(name):
    run(name, TARGETS[name])


def test_a_request_is_the_same_in_every_run():
    for name, target in TARGETS.items():
        first = [target.make(Random(f"{name} {number}")) for number in range(50)]
        assert first == [target.make(Random(f"{name} {number}")) for number in range(50)]


def obey(command: str) -> None:
    """Cause the cost or the failure that `command` asks for."""
    match command:
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(60)
        case "compute":
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass
        case "allocate":
            bytearray(os.urandom(1024)) * 50_000
        case "fail":
            raise LookupError
        case "refuse":
            raise NotFound


def test_a_measured_process_reports_costs_and_failures_and_continues():
    commands = ("nothing", "compute", "allocate", "allocate", "refuse", "fail", "die", "hang", "nothing")
    with closing(MeasuredProcess(obey, 2)) as process:
        nothing, compute, first, second, refuse, fail, die, hang, last = map(process.run, commands)

    assert nothing.cpu_s < 0.1 < compute.cpu_s < 1
    assert nothing.peak_bytes < 3_000_000
    assert 50_000_000 < first.peak_bytes < 60_000_000
    assert 50_000_000 < second.peak_bytes < 60_000_000  # also when an earlier call has used and freed the memory
    assert (refuse.refused, refuse.failure) == ("not_found", None)
    assert "LookupError" in fail.failure
    assert die.failure == "the process died: exit code -11"
    assert hang.failure == "no answer in 2 s"
    assert (last.refused, last.failure) == (None, None)
