"""Processes that end with us: the kernel ties each to its parent, and stopping one stops all it started."""

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

# In the environment of every process that we start: whose it is, should all that ties it to us be cut.
_MARK = "PIXTOOLS_STARTED_BY"


@dataclass(frozen=True)
class Account:
    """Whom a server runs as, where that is not us."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Process:
    name: str
    log: Path
    stop_signal: signal.Signals
    popen: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise LocalError, with the log's last lines, if it has ended."""
        code = self.popen.poll()
        if code is not None:
            raise LocalError(f"{self.name} ended by itself (code {code}). {self.last_words()}")

    def last_words(self, lines: int = 10) -> str:
        """The end of its log, for a message."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"The end of {self.log}:", *(f"  {line}" for line in text)])

    def stop(self, patience: float = 15) -> None:
        """End it and all that it started; what does not end when asked to is killed."""
        family = _descendants(self.popen.pid)
        self.popen.send_signal(self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(patience)
        self.popen.kill()
        self.popen.wait()
        _kill(family)


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    home: Path,
    log: Path,
    env: Mapping[str, str],
    stop_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
    given: str = "",
) -> Process:
    """Start `command` with exactly `env`, tied to the calling thread; `given` is its standard input.

    In a session of its own, so that a terminal's Ctrl-C reaches us alone and we choose the order of the end.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError("setpriv is not installed, which ties servers to us: install the package util-linux")
    if log.exists():
        log.replace(log.with_suffix(".old"))  # the last run's may tell why it ended
    with log.open("wb") as output, tempfile.TemporaryFile("w+") as stdin:
        stdin.write(given)
        stdin.seek(0)
        popen = subprocess.Popen(  # noqa: S603 (our own commands, no shell)
            # Not by a preexec_fn: it runs with one thread left, and may wait for ever for a lock of another.
            [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG"), *command],
            cwd="/",  # a server started as nobody may not enter ours
            env={**env, _MARK: str(home)},
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
    """Have the kernel send `signum` to this process when the thread that forked it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can slip away."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(patience: float = 0) -> None:
    """Wait until nothing descends from this process, which adopts orphans; kill the rest after `patience`."""
    deadline = time.monotonic() + patience
    with suppress(ChildProcessError):  # nobody left to wait for
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    _kill(_descendants(os.getpid()))
                time.sleep(0.05)


def belonging_to(home: Path, ray_folder: Path) -> list[psutil.Process]:
    """Find what was started for `home`, by whichever launcher, even if all that tied it to that one is cut.

    Ray's workers write their title over their environment, and our mark with it: their logs give them away.
    """
    return [p for p in psutil.process_iter() if _bears_mark(p, home) or _writes_below(p, ray_folder)]


def end_leftovers(home: Path, ray_folder: Path, patience: float = 5) -> None:
    """Wait for what an earlier run on `home` left behind when it was killed; kill it after `patience`.

    To be called by the holder of the home's lock alone: what is found then has lost its owner.
    """
    _, left = psutil.wait_procs(belonging_to(home, ray_folder), timeout=patience)
    _kill(left)
    psutil.wait_procs(left, timeout=patience)


def _bears_mark(process: psutil.Process, home: Path) -> bool:
    try:
        return bool(process.environ().get(_MARK) == str(home))
    except (psutil.Error, OSError):  # gone, or another user's
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
