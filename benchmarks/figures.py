"""Percentiles, the times of an open loop, medians of several runs, and Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

Figures = dict[str, float]
"""The figures of one run by name. The name of a figure ends with its unit."""


def quantile(values: Iterable[float], q: float) -> float:
    """Return the smallest value that is at least as large as the fraction `q` (0..1) of all values (nearest rank).

    Returns NaN if there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(1, math.ceil(q * len(ordered))) - 1]


def latencies(prefix: str, seconds: Sequence[float]) -> Figures:
    """Return the 50th, 95th and 99th percentile of `seconds`, in milliseconds."""
    return {f"{prefix}_p{100 * q:.0f}_ms": 1000 * quantile(seconds, q) for q in (0.5, 0.95, 0.99)}


def arrivals(rate: float, seconds: float) -> list[float]:
    """Return the times of an open loop: `rate` arrivals per second for `seconds`, evenly spaced, the first at 0."""
    return [number / rate for number in range(math.ceil(rate * seconds))]


def medians(runs: Sequence[Figures]) -> dict[str, dict[str, float | list[float]]]:
    """Return the median and the values of each figure. A figure may be missing in some runs. NaN is left out."""
    names = dict.fromkeys(name for run in runs for name in run)
    values = {name: [run[name] for run in runs if not math.isnan(run.get(name, math.nan))] for name in names}
    return {name: {"median": median(found), "runs": found} for name, found in values.items() if found}


def number(value: float | None) -> str:
    """Return a number with three digits, a whole number without decimals, or a dash if there is no number."""
    if value is None or math.isnan(value):
        return "–"
    digits = 0 if value == int(value) else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"


def table(columns: Sequence[str], rows: Iterable[tuple[str, Mapping[str, float | None]]]) -> str:
    """Return a Markdown table. Each row has a title, and values by the names of the columns after the first one."""
    names = columns[1:]
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * len(names)}"]
    lines += [f"| {title} | {' | '.join(number(values.get(name)) for name in names)} |" for title, values in rows]
    return "\n".join(lines)
