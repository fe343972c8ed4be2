"""The parent's side of a sandboxed process: starts it, talks to it, and ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pixtools import logs

_START_TIMEOUT_S = 60.0  # imports take seconds on a busy machine

# Variables that say where code is, how text is encoded, and how many threads libraries use. A child gets no other
# variable, because variables hold secrets.
_PASSED_ON = frozenset({"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS"})


class ChildDied(Exception):
    """The sandboxed process ended, did not start, or closed its connection."""


class SandboxedProcess:
    """A child process that works without access to files, secrets and the network.

    `prepare` is `module:name` of a function without arguments. The child calls it before it is confined. It returns the
    function that does the work and gets the connection to this process. The child may take `memory_bytes` in addition
    to the memory that it takes after the preparation.

    If the thread that creates this object ends, the kernel kills the process.
    """

    def __init__(self, prepare: str, memory_bytes: int) -> None:
        """Start the process and return at once. `wait_until_ready` waits until it has confined itself."""
        ours, theirs = Pipe()
        self.connection: Connection[Any, Any] = ours
        self._popen = subprocess.Popen(  # noqa: S603 (our own command, no shell)
            [
                *(sys.executable, "-P", "-m", "pixtools.sandbox.child"),  # -P: no modules from the working directory
                *(str(theirs.fileno()), prepare, str(memory_bytes), str(os.getpid()), logs.current_format()),
            ],
            env=_environment(),
            cwd="/",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._is_ready = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def wait_until_ready(self) -> None:
        """Wait until the process has confined itself. Raises ChildDied if it does not start within a minute."""
        if self._is_ready:
            return
        with suppress(EOFError, OSError):
            self._is_ready = self.connection.poll(_START_TIMEOUT_S) and self.connection.recv_bytes(16) == b"ready"
        if not self._is_ready:
            raise ChildDied(f"the process did not start (exit code {self._popen.poll()})")

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """Kill the process. Reads and writes of other threads on its connection fail. Call `end` too."""
        self._popen.kill()

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, in seconds. Raises ChildDied if the process has ended."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)  # the clock of another process, as clock_getcpuclockid(3)
        except OSError as error:
            raise ChildDied(str(error)) from error

    def end(self) -> int:
        """Kill the process, if it still runs. Return its exit code, which is negative if a signal ended the process."""
        self.connection.close()
        self._popen.kill()
        return self._popen.wait()


def _environment() -> dict[str, str]:
    passed_on = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    return {**passed_on, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
