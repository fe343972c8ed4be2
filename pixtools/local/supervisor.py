"""The outer process of `pixtools up`. It forks a worker, which starts the servers, and ends after all of them.

The supervisor adopts every orphan below it, so no server outlives a worker that was killed by SIGKILL. The worker
adopts orphans too and ends when the supervisor ends, so no server outlives a supervisor that was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Never

from pixtools.local.processes import adopt_orphans, end_descendants, end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Seconds. If the worker was killed, the kernel has signalled its servers: this is Postgres' time for a checkpoint.
_END_TIMEOUT_S = 10


class Stop(BaseException):
    """The worker received its first SIGINT or SIGTERM."""


def run(work: Callable[[], int], parent: int | None) -> int:
    """Call `work` in a forked process, and return its exit code after all descendants have ended.

    If `parent` is given, an interrupt of that process counts as an interrupt of this one.
    """
    awaited = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup makes us ignore it
        awaited.add(signal.SIGHUP)
    adopt_orphans()
    # Blocked, so that they arrive only in sigtimedwait and cannot interrupt other lines.
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        _run_worker(work, supervisor, awaited)
    code = _watch(worker, awaited, parent)
    end_descendants(_END_TIMEOUT_S)
    if code < 0:
        sys.stderr.write(f"The launcher was killed by signal {-code}. Its servers have ended too.\n")
        return 128 - code
    return code


def _watch(worker: int, awaited: set[signal.Signals], parent: int | None) -> int:
    """Pass signals on to the worker until it ends; return its exit code."""
    if parent is not None and not _catches_interrupts(parent):
        parent = None  # an interrupt of such a parent changes nothing that we can see
    while True:
        received = signal.sigtimedwait(awaited, 1)
        if received is None:
            # If only make is interrupted, and not its process group, make removes its handler and waits for us.
            if parent is not None and not _catches_interrupts(parent):
                parent = None
                os.kill(worker, signal.SIGINT)
        elif received.si_signo != signal.SIGCHLD:
            # A terminal sends the same Ctrl-C to make. It must not count as a second one.
            parent = None
            os.kill(worker, signal.SIGINT if received.si_signo == signal.SIGINT else signal.SIGTERM)
        elif (code := _reap(worker)) is not None:
            return code


def _catches_interrupts(pid: int) -> bool:
    """Return whether the process has a handler for SIGINT."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended; the kernel signals that to us separately
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


def _reap(worker: int) -> int | None:
    """Collect every child that has ended, adopted ones too. Return the worker's exit code if it has ended."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def _run_worker(work: Callable[[], int], supervisor: int, awaited: set[signal.Signals]) -> Never:
    # In a new session a terminal's Ctrl-C reaches only the supervisor, which passes it on once.
    os.setsid()
    adopt_orphans()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    end_with_parent(signal.SIGTERM, supervisor)
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        code = work()
    except Stop:  # it came before `work` could catch it
        code = 0
    except BaseException:  # noqa: BLE001 (a forked child must never return into the code of its parent)
        sys.excepthook(*sys.exc_info())
    finally:
        end_descendants()
        os._exit(code)


def _stop(_signum: int, _frame: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _stop_at_once)
    raise Stop


def _stop_at_once(_signum: int, _frame: FrameType | None) -> Never:
    end_descendants()
    os._exit(130)
