"""Starts processes that end with the launcher, and finds processes that did not end.

Three mechanisms end the processes that we start. First, the kernel sends a signal to the process when the thread that
started it ends. Second, `Process.stop` ends the process and all its descendants. Third, the environment of the process
contains a mark. If the kernel and `Process.stop` fail, a later run finds the process by its mark.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)

MARK = "PIXTOOLS_STARTED_BY"
"""An environment variable of every process that we start. Its value is the home."""


@dataclass(frozen=True)
class Account:
    """The user and the group of a server that does not run as our user."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Process:
    """A process that we started, and its log."""

    name: str
    log: Path
    stop_signal: signal.Signals
    popen: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise LocalError, with the last lines of the log, if the process has ended."""
        code = self.popen.poll()
        if code is not None:
            raise LocalError(f"{self.name} ended by itself (code {code}). {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the log, for a message."""
        return log_tail(self.log)

    def stop(self, timeout: float = 15) -> None:
        """Stop the process with its stop signal, or after `timeout` seconds with SIGKILL. Then kill its descendants."""
        family = _descendants(self.popen.pid)
        self.popen.send_signal(self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout)
        self.popen.kill()
        self.popen.wait()
        _kill(family)


def log_tail(log: Path, lines: int = 10) -> str:
    """Return the last lines of a log, for a message."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return f"There is no log {log}."
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in text)])


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    home: Path,
    log: Path,
    env: Mapping[str, str],
    stop_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
    stdin_text: str = "",
) -> Process:
    """Start `command` with `env` and the mark of `home` as its environment, and `stdin_text` as its standard input.

    When the calling thread ends, the kernel sends `stop_signal` to the process. The process runs in a new session, so
    a terminal's Ctrl-C reaches only the launcher. The launcher then stops the servers in the right order. Raises
    LocalError if setpriv is missing.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError("The program setpriv is missing. Without it, servers may never stop: install util-linux")
    if log.exists():
        log.replace(log.with_suffix(".old"))  # keep the old log, because it may tell why the last run ended
    with log.open("wb") as output, tempfile.TemporaryFile("w+") as stdin:
        stdin.write(stdin_text)
        stdin.seek(0)
        popen = subprocess.Popen(  # noqa: S603 (our own commands, no shell)
            # setpriv makes the kernel send the signal. A preexec_fn could do the same, but it can deadlock: it runs
            # after the fork, when locks of other threads may be held for ever.
            [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG"), *command],
            cwd="/",  # the `nobody` user may have no access to our working directory
            env={**env, MARK: str(home)},
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    return Process(name, log, stop_signal, popen)


def end_with_parent(signum: int, parent: int) -> None:
    """Let the kernel send `signum` to this process when its parent thread ends. `parent` is the pid of the parent."""
    _libc.prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # the parent ended before prctl, so the kernel sends no signal
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Adopt every descendant whose parent ends, so that this process still finds all descendants."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_others(keep: Iterable[Process], timeout: float = 10) -> None:
    """Kill every descendant of this process that is neither in `keep` nor a descendant of a process in `keep`.

    Wait until they have ended, for up to `timeout` seconds.
    """
    kept = {process.popen.pid for process in keep}
    kept |= {descendant.pid for pid in kept for descendant in _descendants(pid)}
    others = [each for each in _descendants(os.getpid()) if each.pid not in kept]
    _kill(others)
    psutil.wait_procs(others, timeout=timeout)


def end_descendants(timeout: float = 0) -> None:
    """Wait until this process has no descendants. After `timeout` seconds, kill the descendants that still run.

    Call `adopt_orphans` before, so that orphans among the descendants are found too.
    """
    deadline = time.monotonic() + timeout
    with suppress(ChildProcessError):  # waitpid raises ChildProcessError when no child is left
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    _kill(_descendants(os.getpid()))
                time.sleep(0.05)


def started_for(home: Path, ray_folder: Path) -> list[psutil.Process]:
    """Return all processes that any launcher started for `home`.

    A process is recognized by its mark. The workers of Ray overwrite their environment with their title, so a worker is
    recognized by its open log files below `ray_folder`.
    """
    return [p for p in psutil.process_iter() if _has_mark(p, home) or _writes_below(p, ray_folder)]


def end_leftovers(home: Path, ray_folder: Path, timeout: float = 5) -> None:
    """Wait until the processes of an earlier run on `home` have ended. After `timeout` seconds, kill the rest.

    Only the holder of the home's lock may call this function. The lock proves that no launcher uses these processes.
    """
    _, left = psutil.wait_procs(started_for(home, ray_folder), timeout=timeout)
    _kill(left)
    psutil.wait_procs(left, timeout=timeout)


def _has_mark(process: psutil.Process, home: Path) -> bool:
    try:
        return bool(process.environ().get(MARK) == str(home))
    except (psutil.Error, OSError):  # the process has ended, or belongs to another user
        return False


def _writes_below(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(file.path.startswith(f"{folder}/") for file in process.open_files())
    except (psutil.Error, OSError):
        return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
