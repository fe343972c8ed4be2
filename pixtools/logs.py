"""Logging: where the log lines go, which ids they contain, and how the outage of a server is logged."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

log = logging.getLogger(__name__)

_OUTAGE_INTERVAL_S = 30.0  # between two log lines about one outage
_ADDRESS = re.compile(r"\S*(?:://|@)\S*")  # a URL, or a piece of a URL that a library took for a host name


LogFormat = Literal["text", "json"]

_format: LogFormat = "text"

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default=MappingProxyType({}))


def ids() -> Mapping[str, str]:
    """Return the ids of the present log lines by name, such as `request_id` or `job_id`."""
    return _ids.get()


@contextmanager
def about(**more: object) -> Iterator[None]:
    """Add ids to all log lines of the block, and of the tasks and threads that the block starts."""
    token = _ids.set({**_ids.get(), **{name: str(value) for name, value in more.items()}})
    try:
        yield
    finally:
        _ids.reset(token)


def begin(given: Mapping[str, str]) -> None:
    """Replace the ids of the current task or thread.

    Generators use this and not `about`: another context may end a generator, and then `about` cannot reset the ids.
    """
    _ids.set(given)


def to_stderr(log_format: LogFormat) -> None:
    """Send the log lines of this process to stderr. Ray keeps stderr in one file per process.

    If the process has set up logging already, its handlers stay.
    """
    global _format  # noqa: PLW0603 (a process has one format)
    _format = log_format
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def current_format() -> LogFormat:
    """Return the format of this process, for its sandboxed child processes."""
    return _format


class TextLines(logging.Formatter):
    """Lines for people. The ids are at the end of a line, and a traceback follows."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(ids)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.ids = "".join(f" {name}={value}" for name, value in ids().items())
        return super().format(record)


class JsonLines(logging.Formatter):
    """One JSON object for each line, with the ids as fields. `error` is a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **ids(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def reason(error: BaseException) -> str:
    """Return why a server does not answer: the first line of the driver's message, without URLs and passwords.

    The error of the driver is the cause of `error`. If the cause is an error of SQLAlchemy, its attribute `orig` is the
    error of the driver.
    """
    cause = error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    first_line = str(cause).strip().partition("\n")[0]
    return _ADDRESS.sub("(address)", first_line) or type(cause).__name__


class OutageLog:
    """Logs the outages of one server: when an outage begins, every 30 s while it lasts, and when it is over.

    All calls of a process that wait for the server share one OutageLog. An outage begins with the first call that
    fails. The outage is over when the last waiting call has its answer. The class is not thread-safe: use each instance
    on one event loop.
    """

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`server` is the name of the server in the log lines. `clock` returns seconds."""
        self._server = server
        self._clock = clock
        self._waiting: set[OutageWaiter] = set()
        self._began_at = 0.0
        self._logged_at = 0.0

    @contextmanager
    def waiter(self) -> Iterator[OutageWaiter]:
        """Surround all tries of one call. If the block ends and was not cancelled, the server has answered."""
        waiter = OutageWaiter(self)
        answered = True
        try:
            yield waiter
        except (asyncio.CancelledError, GeneratorExit):
            answered = False
            raise
        finally:
            self._leave(waiter, answered=answered)

    def failed(self, waiter: OutageWaiter, error: BaseException, doing: str) -> None:
        """Add a failed try of a waiting call. Log the first try of an outage, and then at most one try in 30 s."""
        now = self._clock()
        if not self._waiting:
            self._began_at = self._logged_at = now
            log.warning("%s does not answer: doing=%s reason=%s", self._server, doing, reason(error))
        elif now - self._logged_at >= _OUTAGE_INTERVAL_S:
            self._logged_at = now
            log.warning(
                "%s still does not answer: for_s=%.0f waiting_calls=%d doing=%s reason=%s",
                self._server, now - self._began_at, len(self._waiting), doing, reason(error),
            )  # fmt: skip
        self._waiting.add(waiter)

    def _leave(self, waiter: OutageWaiter, *, answered: bool) -> None:
        if waiter not in self._waiting:  # the call never failed
            return
        self._waiting.remove(waiter)
        if answered and not self._waiting:
            log.warning("%s answers again: after_s=%.1f", self._server, self._clock() - self._began_at)


class OutageWaiter:
    """One call that is tried until its server answers."""

    def __init__(self, outages: OutageLog) -> None:
        self._outages = outages

    def failed(self, error: BaseException, doing: str) -> None:
        """Report a failed try to the log."""
        self._outages.failed(self, error, doing)
