"""The memory of the machine, and limits for the memory of one process.

After `limit`, allocations fail before the memory of the machine is full.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from <malloc.h>
_SMALL_BLOCK_BYTES = 524_288
_LARGEST_THRESHOLD_BYTES = 32 << 20  # glibc accepts no larger one


def limit(extra_bytes: int) -> None:
    """Limit the private memory of this process to its current size plus `extra_bytes`.

    The limit cannot be raised again. Beyond the limit, every allocation in Python and in the codecs fails, and Python
    raises MemoryError. The limit is RLIMIT_DATA. RLIMIT_DATA counts private writable memory, so pixels in Ray's shared
    memory do not count.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit_bytes = own_bytes() + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def trim() -> None:
    """Give the machine the free memory that glibc still keeps. This takes about 20 ms after large pictures."""
    with suppress(AttributeError):  # another C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def return_freed_blocks() -> None:
    """Make glibc return each freed block of 512 kB or more to the machine at once, and use at most two heaps.

    At the end of each heap, up to 4 MB of free memory remain.
    By default, glibc may keep freed blocks of up to 32 MB. This wastes memory in a process that seldom needs such
    blocks. Call this function early, because it affects only new blocks.
    """
    _set_up_glibc(_SMALL_BLOCK_BYTES, 8 * _SMALL_BLOCK_BYTES)


def keep_freed_blocks(kept_bytes: int) -> None:
    """Make glibc keep up to `kept_bytes` of freed memory at the end of each of two heaps, and use this memory again.

    This is good for a process that often needs blocks of megabytes. New memory costs CPU time, because the kernel fills
    it with zeros. Call this function early, because it affects only new blocks.
    """
    _set_up_glibc(_LARGEST_THRESHOLD_BYTES, kept_bytes)


def _set_up_glibc(mmap_bytes: int, kept_bytes: int) -> None:
    """Set two limits of glibc.

    A block of `mmap_bytes` or more does not go to the heap. The kernel gets it back as soon as it is freed. Each heap
    keeps up to `kept_bytes` of free memory at its end.
    """
    with suppress(AttributeError):  # another C library has no mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        libc.mallopt(_M_ARENA_MAX, 2)


def of_node() -> int:
    """Return the memory of this machine in bytes, or the memory limit of the container if this limit is smaller."""
    return min([_kilobytes("/proc/meminfo", "MemTotal:") * 1024, *_limits_of_cgroups(Path("/proc/self/cgroup"))])


def _limits_of_cgroups(membership: Path, root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the memory limits of the cgroups of this process and of all their parent cgroups.

    Versions 1 and 2 of cgroups are supported. `membership` is the file that lists the cgroups of the process. `root` is
    the folder of the cgroup file system.
    """
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # In a container, `path` may name a folder that exists only on the host. The parents of this folder include the
        # cgroup of the container, so the loop finds its limit.
        folder = root / controllers / path.lstrip("/")
        for group in (folder, *folder.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # no limit: the file is missing, or contains `max`
                    yield int((group / name).read_text())
            if group == root:
                break


def own_bytes() -> int:
    """Return the private writable memory of this process in bytes."""
    return _kilobytes("/proc/self/status", "VmData:") * 1024


class Gauge:
    """Reads the memory of this process. It opens the file early, because a sandboxed process cannot open files."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/status").open("rb", buffering=0)  # noqa: SIM115 (open as long as the process)

    def own_bytes(self) -> int:
        """Return the private writable memory of this process in bytes."""
        self._status.seek(0)
        return _kilobytes_in(self._status.read(1 << 16).decode(), "VmData:") * 1024


def _kilobytes(path: str, name: str) -> int:
    return _kilobytes_in(Path(path).read_text(), name)


def _kilobytes_in(text: str, name: str) -> int:
    (found,) = (line for line in text.splitlines() if line.startswith(name))
    return int(found.split()[1])
