"""The CPU time and the memory of a tree of processes, by the task of each process."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass

import psutil

ENDED = "ended processes"

# The first text that occurs in the command line decides the label.
_LABELS = (
    ("dag.segment_worker", "converters"),
    ("ray::ConverterActor", "converters"),
    ("ray::StubConverter", "converters"),
    ("header_worker", "header readers"),
    ("DispatcherActor", "dispatcher"),
    ("ray::SweeperActor", "sweeper"),
    ("ray::CourierActor", "courier"),
    ("ray::DeadLetterQueueActor", "dead-letter queue"),
    ("ray::ServeController", "Serve controller"),
    ("ray::ServeReplica:pixtools", "ingress"),
    ("ray::ServeReplica:denoiser", "denoiser"),
    ("ray::ProxyActor", "Serve proxy"),
    ("haproxy", "Serve proxy"),
    ("HAProxy", "Serve proxy"),
    ("gcs_server", "Ray GCS"),
    ("raylet/raylet", "raylet"),
    ("dashboard", "Ray dashboard"),
    ("postgres", "Postgres"),
    ("valkey", "Redis"),
    ("redis-server", "Redis"),
    ("rclone", "S3 server"),
    ("thumbor", "thumbor"),
    ("pixtools up", "launcher"),
    ("ray", "Ray, other"),
)


@dataclass(frozen=True)
class Usage:
    """The CPU seconds of a process since its start. `children_s` are those of its children that have ended."""

    label: str
    own_s: float
    children_s: float


Sample = dict[tuple[int, float], Usage]
"""The usage of each process, by its id and the time of its start. Ids alone are used again."""


def sample(root: psutil.Process) -> Sample:
    """Return the usage of `root` and of all its descendants until now."""
    found = {}
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            usage = Usage(label(process), times.user + times.system, times.children_user + times.children_system)
            found[process.pid, process.create_time()] = usage
    return found


def spent(before: Sample, after: Sample) -> dict[str, float]:
    """Return the CPU seconds between two samples, by label.

    When a process ends, the kernel adds its time to that of its parent. So the time of processes that have ended is
    known too, but not their label.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    nothing = Usage("", 0, 0)
    for key, usage in after.items():
        earlier = before.get(key, nothing)
        seconds[usage.label] += usage.own_s - earlier.own_s
        seconds[ENDED] += usage.children_s - earlier.children_s
    gone = sum(usage.own_s + usage.children_s for key, usage in before.items() if key not in after)
    seconds[ENDED] = max(0.0, seconds[ENDED] - gone)  # below 0 if a parent does not wait for its children
    return dict(seconds)


def pss_by_label(root: psutil.Process) -> dict[str, float]:
    """Return the memory of `root` and of its descendants, in bytes. Pages of several processes are divided among them.

    Processes whose memory this user may not read count as 0.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found[label(process)] += process.memory_full_info().pss
    return dict(found)


def family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    return [root, *root.children(recursive=True)]


def label(process: psutil.Process) -> str:
    """Return the task of a process. Raises psutil.NoSuchProcess if it has ended."""
    line = f"{process.name()} {' '.join(process.cmdline())}"
    return next((name for text, name in _LABELS if text in line), "other")


def busy_percent() -> float:
    """Return how much of all cores all programs of the machine use during one second, 0..100."""
    return float(psutil.cpu_percent(1))
