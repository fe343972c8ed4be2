"""A process that calls a function again and again. If it dies or misses its deadline, it is replaced."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class ProcessHung(Exception):
    """The process did not answer within its deadline. It has been replaced."""


class ProcessDied(Exception):
    """The process died. It has been replaced. The argument is the exit code."""


class ReplacedProcess:
    """A process that calls `answer` with each argument that it gets. `answer` returns the answer to send.

    The process first calls `prepare`. Both functions have to be at the top level of a module, or partials of such
    functions.
    """

    def __init__(self, answer: Callable[[Any], Any], deadline_s: float, prepare: Callable[[], object]) -> None:
        self._answer = answer
        self._deadline_s = deadline_s
        self._prepare = prepare
        self._connection: Connection
        self._process: BaseProcess
        self._start()

    def ask(self, argument: Any) -> Any:
        """Return the answer to an argument. Raises ProcessHung and ProcessDied."""
        error: Exception
        try:
            self._connection.send(argument)
            if self._connection.poll(self._deadline_s):
                return self._connection.recv()
            error = ProcessHung(f"no answer in {self._deadline_s:g} s")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            error = ProcessDied(self._process.exitcode)
        self.close()
        self._start()
        raise error

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, self._answer, self._prepare), daemon=True)
        self._process.start()
        other_end.close()
        assert self._connection.poll(60), "the process did not start"
        self._connection.recv()


def _serve(connection: Connection, answer: Callable[[Any], Any], prepare: Callable[[], object]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # discards the messages that libraries write to stderr
    prepare()
    connection.send("ready")
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        connection.send(answer(argument))
