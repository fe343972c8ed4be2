"""Log lines: their ids, and their two formats."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from dag.segment_run import _attempt
from pixtools import logs
from pixtools.operations import get
from pixtools.sandbox.process import SandboxedProcess

log = logging.getLogger(__name__)


@pytest.fixture
def lines(caplog):
    """The log lines in JSON, as objects."""
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(logs.JsonLines())
    return lambda: [json.loads(line) for line in caplog.text.splitlines()]


def test_a_line_in_json_has_its_ids_and_its_traceback(lines):
    with logs.about(job_id=1), logs.about(step="web"):
        try:
            int("broken")
        except ValueError:
            log.exception("step failed: tries=%d", 2)
    log.info("later")

    failed, later = lines()
    assert failed.pop("time").endswith("+00:00")
    assert failed.pop("error").endswith("'broken'")
    assert failed == {
        "level": "ERROR", "logger": __name__, "message": "step failed: tries=2", "job_id": "1", "step": "web"
    }  # fmt: skip
    assert "job_id" not in later


def test_tasks_and_threads_take_the_ids_with_them(lines):
    async def work():
        with logs.about(job_id="a"):
            first = asyncio.create_task(asyncio.to_thread(log.info, "in a thread"))
        with logs.about(job_id="b"):
            await first

    asyncio.run(work())
    assert [line["job_id"] for line in lines()] == ["a"]


def test_a_line_of_a_step_names_the_step(lines):
    class Step:
        name, operation = "web", get("webp")

    class Outside:
        def tell(self, message):
            self.code = message.code

    outside = Outside()
    _attempt(outside, [Step], lambda: 1 / 0)
    (line,) = lines()
    assert (line["message"], line["step"], line["op"]) == ("step failed unexpectedly", "web", "webp")
    assert outside.code == "internal"


def prepare():
    """The first function of a sandboxed process: write a log line, and return the function that does the work."""
    with logs.about(job_id="j-1"):
        logging.getLogger("x").info("two\nlines")
    return lambda _: None


@pytest.mark.parametrize(
    ("log_format", "expected"), [("json", '"message": "two\\nlines"'), ("text", "lines job_id=j-1")]
)
def test_sandboxed_processes_write_in_the_format_of_their_parent(monkeypatch, capfd, log_format, expected):
    monkeypatch.setattr(logs, "_format", log_format)
    process = SandboxedProcess("test_logs:prepare", 500_000_000)
    process.wait_until_ready()
    process.end()
    assert expected in capfd.readouterr().err
