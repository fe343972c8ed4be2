"""The outer process of `pixtools up`: it outlives the worker that it forks, and leaves nothing behind it.

The guard adopts every orphan below it, so a worker killed by SIGKILL cannot leak a server; the worker does
the same and ends when the guard does, so neither can a killed guard.
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

# Servers whose launcher was killed have been told by the kernel to stop: let Postgres write its checkpoint.
_GRACE = 10


class Stop(BaseException):
    """Raised in the worker by the first SIGINT or SIGTERM."""


def run(work: Callable[[], int], parent: int | None) -> int:
    """Run `work` in a process of its own; return its code when no descendant of ours is left.

    An interrupt of `parent`, if given, is taken as ours.
    """
    awaited = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        awaited.add(signal.SIGHUP)
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # taken by sigwait, so none comes between two lines
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        _be_worker(work, guard, awaited)
    code = _watch(worker, awaited, parent)
    end_descendants(_GRACE)
    if code < 0:
        sys.stderr.write(f"The launcher was killed by signal {-code}; its servers have ended too.\n")
        return 128 - code
    return code


def _watch(worker: int, awaited: set[signal.Signals], parent: int | None) -> int:
    """Pass signals on until the worker ends."""
    if parent is not None and not _catches_interrupts(parent):
        parent = None  # then it never does, and an interrupt changes nothing that we could see
    while True:
        came = signal.sigtimedwait(awaited, 1)
        if came is None:
            # make, when it alone is interrupted and not its group, gives up its handler and waits for us.
            if parent is not None and not _catches_interrupts(parent):
                parent = None
                os.kill(worker, signal.SIGINT)
        elif came.si_signo != signal.SIGCHLD:
            parent = None  # a terminal interrupts make too: that is the same Ctrl-C, not a second one
            os.kill(worker, signal.SIGINT if came.si_signo == signal.SIGINT else signal.SIGTERM)
        elif (code := _reap(worker)) is not None:
            return code


def _catches_interrupts(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended, which the kernel tells us
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


def _reap(worker: int) -> int | None:
    """Bury every child that has ended, adopted ones too; return the worker's code if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def _be_worker(work: Callable[[], int], guard: int, awaited: set[signal.Signals]) -> Never:
    os.setsid()  # a terminal's Ctrl-C reaches the guard alone, which passes it on once
    adopt_orphans()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    end_with_parent(signal.SIGTERM, guard)
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        code = work()
    except Stop:  # before `work` could handle it
        code = 0
    except BaseException:  # noqa: BLE001 (a forked child must never return into its parent's code)
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
