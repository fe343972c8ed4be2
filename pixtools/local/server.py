"""A server that `pixtools up` started: its process, its URL, and waiting until the server answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pixtools.local.processes import Process


@dataclass(frozen=True)
class Server:
    """A started server, which may not answer yet."""

    url: str = field(repr=False)  # hidden, because it may contain a password
    env: Mapping[str, str] = field(repr=False)  # PIXTOOLS_* variables that lead the service to the server
    process: Process
    answers: Callable[[], bool] = field(repr=False)  # asks the server and returns whether it answered
    data: Path | None = None  # the folder of its data, if it keeps data
    # Returns why the server does not work although its process runs, or None.
    broken: Callable[[], str | None] = field(default=lambda: None, repr=False)
    # Called every minute while the server runs.
    tidy: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def name(self) -> str:
        """The name of the process, for messages."""
        return self.process.name

    def check(self) -> None:
        """Raise LocalError, with the last lines of the log, if the server has ended or does not work any more."""
        self.process.check()
        if (reason := self.broken()) is not None:
            raise LocalError(f"{self.name} does not work any more: {reason}")

    def wait(self, timeout: float = 60) -> None:
        """Wait until the server answers. Raises LocalError if the server ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            if self.answers():
                return
            if time.monotonic() > deadline:
                raise LocalError(f"{self.name} did not answer within {timeout:.0f} s. {self.process.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server and every process that it started."""
        self.process.stop()
