"""A server of ours: the process, where it is reached, and when it can be."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pixtools.local.processes import Process


@dataclass(frozen=True)
class Server:
    url: str = field(repr=False)  # it may hold a password
    env: Mapping[str, str] = field(repr=False)  # the PIXTOOLS_* variables that point the service at it
    process: Process
    answers: Callable[[], bool] = field(repr=False)

    @property
    def name(self) -> str:
        return self.process.name

    def wait(self, patience: float = 60) -> None:
        """Return once it answers; raise LocalError if it ends first or takes too long."""
        deadline = time.monotonic() + patience
        while True:
            self.process.check()
            if self.answers():
                return
            if time.monotonic() > deadline:
                raise LocalError(f"{self.name} did not answer within {patience:.0f} s. {self.process.last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.stop()
