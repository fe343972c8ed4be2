"""A process's own limit of memory: what asks for more fails, and the machine goes on."""

from __future__ import annotations

import resource
from pathlib import Path


def limit(extra_bytes: int) -> None:
    """Let this process take at most `extra_bytes` more memory of its own than it has now, for good.

    RLIMIT_DATA, which counts what a process may write and shares with nobody: pixels in Ray's shared memory are not
    in it. Python and the codecs meet it as an allocation that fails, hence as a MemoryError.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _own_bytes() + extra_bytes
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    return kilobytes * 1024
