"""The supervisor: the outer process of `pixtools up`. It forks a worker, and the worker starts the servers.

The supervisor ends after all servers have ended. It adopts every orphan among its descendants. So if the worker is
killed, the supervisor still finds the servers and ends them. The worker adopts orphans too, and ends when the
supervisor ends. So if the supervisor is killed, the worker ends the servers.
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

# If the worker was killed, the kernel has already sent a stop signal to its servers. They get this many seconds to end,
# because Postgres writes a checkpoint before it ends.
_END_TIMEOUT_S = 10


class Stop(BaseException):
    """The worker received its first SIGINT or SIGTERM."""


def run(work: Callable[[], int], parent: int | None) -> int:
    """Call `work` in a forked process. Return the exit code of that process after all descendants have ended.

    If `parent` is given, an interrupt of the parent process counts as an interrupt of this process.
    """
    awaited = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup, SIGHUP must stay ignored
        awaited.add(signal.SIGHUP)
    adopt_orphans()
    # Block these signals, so that only sigtimedwait receives them and they cannot interrupt any other line.
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
    """Pass signals on to the worker until the worker ends. Return the exit code of the worker."""
    if parent is not None and not _catches_interrupts(parent):
        parent = None  # if the parent has no handler, we cannot see an interrupt of the parent
    while True:
        received = signal.sigtimedwait(awaited, 1)
        if received is None:
            # The parent is usually make. If an interrupt reaches only make, and not its whole process group, make
            # removes its handler for SIGINT and waits for us.
            if parent is not None and not _catches_interrupts(parent):
                parent = None
                os.kill(worker, signal.SIGINT)
        elif received.si_signo != signal.SIGCHLD:
            # A terminal sends Ctrl-C to make too. Do not watch make any longer, or one Ctrl-C would count twice.
            parent = None
            os.kill(worker, signal.SIGINT if received.si_signo == signal.SIGINT else signal.SIGTERM)
        elif (code := _reap(worker)) is not None:
            return code


def _catches_interrupts(pid: int) -> bool:
    """Return whether the process has a handler for SIGINT."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # the process has ended, so the kernel sends us SIGTERM (see `up`)
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


def _reap(worker: int) -> int | None:
    """Collect every child that has ended, also adopted ones. Return the worker's exit code, or None if it runs."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def _run_worker(work: Callable[[], int], supervisor: int, awaited: set[signal.Signals]) -> Never:
    # The worker gets its own session, so that Ctrl-C in a terminal reaches only the supervisor. The supervisor passes
    # the signal on to the worker once.
    os.setsid()
    adopt_orphans()
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    end_with_parent(signal.SIGTERM, supervisor)
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        code = work()
    except Stop:  # the signal came before `work` could catch Stop
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
