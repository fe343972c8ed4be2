"""Runs a function on hostile inputs, and checks that each input costs little.

The bounds grow linearly with the size of the input, and have slack for busy machines. `measured_process.py` measures
CPU time and memory. PIXTOOLS_FUZZ_SECONDS is the time for each target, in seconds. Each value of PIXTOOLS_FUZZ_SEED
makes different cases. Harmful inputs are kept in build/fuzz.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from measured_process import MeasuredProcess, Measurement

SECONDS = float(os.environ.get("PIXTOOLS_FUZZ_SECONDS", "2"))
SEED = os.environ.get("PIXTOOLS_FUZZ_SEED", "1")
KEPT_FILES = Path(__file__).parents[2] / "build" / "fuzz"
DEADLINE_S = 20

MAX_CPU_S, MAX_BYTES = 1.0, 64_000_000  # of any input
SIZE_CLASSES = (1_000, 8_000, 65_536, 1_000_000, 8_000_000, 30_000_000)


@dataclass(frozen=True)
class Target:
    """A function that reads requests, and the costs that it may have."""

    function: Callable[[Any], None]
    make: Callable[[Random], Any]
    size: Callable[[Any], int]  # in bytes
    first: Sequence[Any]  # requests that are not measured: they load modules, fonts and schemas
    cpu_s_per_byte: float
    bytes_per_byte: float
    extra_cpu_s: Callable[[Any], float] = field(default=lambda _: 0.0)
    base_cpu_s: float = 0.05  # of an input of no size
    base_bytes: int = 6_000_000

    def harm(self, request: Any, cost: Measurement) -> str | None:
        """Return which bound the cost of a request exceeds, or None."""
        size = self.size(request)
        max_cpu_s = min(MAX_CPU_S, self.base_cpu_s + size * self.cpu_s_per_byte + self.extra_cpu_s(request))
        max_bytes = min(MAX_BYTES, self.base_bytes + size * self.bytes_per_byte)
        if cost.failure is not None:
            return cost.failure
        if cost.cpu_s > max_cpu_s:
            return f"{size} bytes took {cost.cpu_s:.3f} s; at most {max_cpu_s:.3f} s are allowed"
        if cost.peak_bytes > max_bytes:
            return f"{size} bytes took {cost.peak_bytes / 1e6:.1f} MB; at most {max_bytes / 1e6:.1f} MB are allowed"
        return None


def keep(name: str, number: int, request: Any, description: str) -> Path:
    """Write a harmful request and a description of the harm. Return the path of the request."""
    KEPT_FILES.mkdir(parents=True, exist_ok=True)
    path = KEPT_FILES / f"{name.replace(' ', '-')}-{SEED}-{number}"
    path.write_bytes(request if isinstance(request, bytes) else f"{request!r}\n".encode())
    path.with_name(path.name + ".txt").write_text(description + "\n")
    return path


def summary(costs: list[tuple[int, Measurement]]) -> str:
    """Return the highest time and memory for each class of sizes."""
    parts = []
    for smallest, limit in itertools.pairwise((0, *SIZE_CLASSES)):
        found = [cost for size, cost in costs if smallest <= size < limit]
        if found:
            cpu_s, peak = max(cost.cpu_s for cost in found), max(cost.peak_bytes for cost in found)
            parts.append(f"<{limit // 1000} kB: {cpu_s * 1e3:.0f} ms {peak / 1e6:.1f} MB")
    return ", ".join(parts)


def run(name: str, target: Target) -> None:
    """Run a target for PIXTOOLS_FUZZ_SECONDS, and print the worst costs. Fails if an input costs too much."""
    costs: list[tuple[int, Measurement]] = []
    codes, harm = Counter(), []
    with closing(MeasuredProcess(target.function, DEADLINE_S)) as process:
        for request in target.first:
            process.run(request)
        end = time.monotonic() + SECONDS
        for number in itertools.count():
            if time.monotonic() > end:
                break
            request = target.make(Random(f"{name} {SEED} {number}"))
            cost = process.run(request)
            costs.append((target.size(request), cost))
            codes[cost.refused or "accepted"] += 1
            if (wrong := target.harm(request, cost)) is not None:
                harm.append((keep(name, number, request, wrong), wrong))
    counts = " ".join(f"{code}={count}" for code, count in codes.most_common())
    print(f"\n{name}: cases={len(costs)} {counts} seed={SEED}; worst {summary(costs)}")
    assert costs
    assert not harm, "\n".join(f"{path}: {wrong}" for path, wrong in harm[:5])
