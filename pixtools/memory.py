"""How much memory there is, and a process's own limit: what asks for more fails, and the machine goes on."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def limit(extra_bytes: int) -> None:
    """Let this process take at most `extra_bytes` more memory of its own than it has now, for good.

    RLIMIT_DATA, which counts what a process may write and shares with nobody: pixels in Ray's shared memory are not
    in it. Python and the codecs meet it as an allocation that fails, hence as a MemoryError.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = own_bytes() + extra_bytes
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def trim() -> None:
    """Give back to the machine what glibc keeps of memory that was freed; it takes some 20 ms after large pictures."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def of_node() -> int:
    """Return the bytes of memory that this machine has, or the container that we run in."""
    return min([_kilobytes("/proc/meminfo", "MemTotal:") * 1024, *_limits_of_cgroups(Path("/proc/self/cgroup"))])


def _limits_of_cgroups(membership: Path, root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the limits of our cgroups, version 1 or 2, and of those that they are in."""
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # A container sees its own cgroup as the root; the path may then be the host's, and not be there.
        folder = root / controllers / path.lstrip("/")
        for group in (folder, *folder.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # a limit that is not set reads `max`
                    yield int((group / name).read_text())
            if group == root:
                break


def own_bytes() -> int:
    """Return the bytes that this process may write and shares with nobody."""
    return _kilobytes("/proc/self/status", "VmData:") * 1024


def _kilobytes(path: str, name: str) -> int:
    (found,) = (line for line in Path(path).read_text().splitlines() if line.startswith(name))
    return int(found.split()[1])
