"""Takes rights away from the current process. Call `confine` after all imports, because it forbids opening files."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import resource
import signal
from pathlib import Path
from typing import Any

from pixtools import memory

try:
    import pyseccomp
except RuntimeError:  # the system library libseccomp is missing
    pyseccomp = None

log = logging.getLogger(__name__)

USER_ID = 65_533
"""The user and the group of a child of root. By default, systems give this number to no account. The child must not be
`nobody`, because the local Postgres runs as `nobody`, and the child must not read its data."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_CLONE_THREAD = 0x10000
_UNCOUNTED = mmap.MAP_SHARED | 0x100  # MAP_GROWSDOWN

# What Python, NumPy and the codecs need in order to compute, and to talk to the parent over an open socket. Every other
# system call fails with EPERM.
_ALLOWED = (
    *("read", "readv", "pread64", "write", "writev", "recvmsg", "lseek", "fstat", "close"),
    *("poll", "ppoll", "select", "pselect6"),
    *("munmap", "mremap", "mprotect", "madvise", "brk"),
    *("futex", "futex_waitv", "set_robust_list", "rseq", "membarrier", "sched_yield", "sched_getaffinity", "getcpu"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times"),
    *("getrandom", "getpid", "gettid", "getppid", "getrusage", "getrlimit", "getcwd", "sysinfo", "uname"),
    *("exit", "exit_group"),
)


def confine(memory_bytes: int, parent: int) -> None:
    """Confine this process for the rest of its life.

    The process may take `memory_bytes` in addition to its present memory. If it belongs to root, it becomes a user
    without any rights. If `parent`, the process that started it, ends, the kernel kills it. If libseccomp is not
    installed, system calls are not filtered, and a warning is logged.
    """
    memory.limit(memory_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain pictures
    # The parent may pass files. This limit keeps a hostile process from collecting them.
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(USER_ID, USER_ID, USER_ID)
        os.setresuid(USER_ID, USER_ID, USER_ID)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of the user, because that change clears it
    if os.getppid() != parent:
        os._exit(0)
    libc.prctl(_PR_SET_DUMPABLE, 0)  # other processes of this user cannot look into this process
    if pyseccomp is None:
        log.warning("libseccomp is not installed: decoders run without a filter of system calls")
    else:
        _filter_system_calls(pyseccomp)


def _filter_system_calls(seccomp: Any) -> None:
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)  # also for the threads that libraries started when they were imported
    for name in _ALLOWED:
        if seccomp.resolve_syscall(seccomp.system_arch(), name) >= 0:  # some processors lack old system calls
            rules.add_rule(seccomp.ALLOW, name)
    # No shared memory and no growing stacks, because RLIMIT_DATA does not count them.
    rules.add_rule(seccomp.ALLOW, "mmap", seccomp.Arg(3, seccomp.MASKED_EQ, _UNCOUNTED, 0))
    # Threads, but no processes. The flags of clone3 are in memory that a filter cannot read. With ENOSYS, glibc falls
    # back to clone.
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(seccomp.ALLOW, "prctl", seccomp.Arg(0, seccomp.EQ, _PR_SET_NAME))  # names of threads
    rules.add_rule(seccomp.ALLOW, "tgkill", seccomp.Arg(0, seccomp.EQ, os.getpid()))  # abort() needs this
    rules.load()
