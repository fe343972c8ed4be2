"""Prints the results of the benchmark as Markdown tables."""

from __future__ import annotations

from typing import Any

from figures import number, table
from parts import MIXES, OF_PROCESS

Results = dict[str, Any]
"""The content of build/bench.json."""

_SMALLEST_MS = 0.1  # processes that take less are not in the table

# (part, figure, what it is, unit)
_SINGLE = (
    ("f", "idle_p50_ms", "one idle job of 0.4 MP, p50", "ms"),
    ("f", "codecs_ms", "… of it codecs, with plain Pillow", "ms"),
    ("f", "idle_minus_codecs_ms", "… the rest", "ms"),
    ("g", "livez_cpu_ms_per_request", "`GET /api/livez`, CPU of all processes", "ms"),
    ("g", "livez_requests_per_s", "`GET /api/livez`", "1/s"),
    ("g", "job_cpu_ms_per_request", "`GET` of a finished job, CPU of all processes", "ms"),
    ("g", "job_requests_per_s", "`GET` of a finished job", "1/s"),
    ("g", "list_ms", "list of 100 jobs of 50 steps", "ms"),
    ("w", "without_webhook_cpu_ms_per_job", "job of a tiny picture, CPU of all processes", "ms"),
    ("w", "webhook_cpu_ms", "… what a webhook adds", "ms"),
    ("w", "courier_cpu_ms", "… of it in the courier", "ms"),
    ("h", "one_cpu_ms_per_job", "dispatcher, CPU of a job that does nothing", "ms"),
    ("h", "one_jobs_per_s", "one dispatcher, jobs that do nothing", "1/s"),
    ("h", "two_jobs_per_s", "two dispatchers, jobs that do nothing", "1/s"),
    ("i", "alone_p95_ms", "0.4 MP → WebP alone, p95", "ms"),
    ("i", "beside_heavy_p95_ms", "… while a picture of 12 MP is denoised, p95", "ms"),
    ("i", "beside_heavy_ratio", "… ratio of the two", "×"),
    ("j", "rest_cpu_percent_of_a_core", "at rest, CPU", "% of a core"),
    ("j", "rest_pss_mb", "at rest, memory (PSS)", "MB"),
    ("j", "rest_processes", "at rest, processes", ""),
    ("j", "second_start_s", "second start", "s"),
)


def value(results: Results, part: str, figure: str) -> float | None:
    """Return the median of a figure, or None if it was not measured."""
    found = results["parts"].get(part, {}).get(figure)
    return None if found is None else float(found["median"])


def markdown(results: Results) -> str:
    """Return all tables."""
    pieces = [_machine(results), _costs(results), _latencies(results), _processes(results), _single(results)]
    pieces += [f"Part {letter} was skipped: {reason}." for letter, reason in results["skipped"].items()]
    return "\n\n".join(piece for piece in pieces if piece)


def _machine(results: Results) -> str:
    found = results["machine"]
    runs = {len(part[name]["runs"]) for part in results["parts"].values() for name in part if name == "cpu_ms_per_job"}
    text = (
        f"{found['date']} UTC, commit {found['commit']}: {found['cores']} cores ({found['cpu']}), "
        f"{found['memory_gb']:g} GB, Python {found['python']}, Pillow {found['pillow']}, Ray {found['ray']}. "
        f"Runs of each mix: {' to '.join(map(str, sorted({min(runs), max(runs)}))) if runs else '–'}. "
        f"Before the start, other programs used {found['used_by_others_percent']} % of all cores."
    )
    if found["used_by_others_percent"] >= 10:  # noqa: PLR2004
        text += " **The machine was busy, so these figures are not reliable.**"
    return text


def _costs(results: Results) -> str:
    columns = {
        "CPU ms a job": "cpu_ms_per_job",
        "floor, CPU ms": "floor_cpu_ms_per_job",
        "efficiency": "efficiency",
        "jobs/s": "jobs_per_s",
        "floor, jobs/s": "floor_jobs_per_s",
        "PSS MB": "pss_mb",
        "transactions a job": "transactions_per_job",
        "errors": "errors",
    }
    rows = [
        (f"({letter}) {mix.title}", {title: value(results, letter, name) for title, name in columns.items()})
        for letter, mix in MIXES.items()
        if letter in results["parts"]
    ]
    if "t" in results["parts"]:
        found = {title: value(results, "t", name) for title, name in columns.items()}
        found["floor, CPU ms"] = value(results, "a", "floor_cpu_ms_per_job")
        if found["CPU ms a job"] and found["floor, CPU ms"]:
            found["efficiency"] = found["floor, CPU ms"] / found["CPU ms a job"]
        rows.append(("thumbor, the pictures of (a)", found))
    return table(["mix", *columns], rows) if rows else ""


def _latencies(results: Results) -> str:
    columns = {
        f"{loop}, {q} ms": f"{loop}_{q}_ms" for loop in ("closed", "open") for q in ("p50", "p95", "p99")
    } | {"open, jobs/s": "open_jobs_per_s"}  # fmt: skip
    titles = {letter: f"({letter}) {mix.title}" for letter, mix in MIXES.items()} | {"t": "thumbor"}
    rows = [
        (title, {name: value(results, letter, figure) for name, figure in columns.items()})
        for letter, title in titles.items()
        if letter in results["parts"]
    ]
    return table(["latency", *columns], rows) if rows else ""


def by_process(results: Results, part: str) -> dict[str, float]:
    """Return the CPU milliseconds per job of a mix by process, the largest first."""
    figures = results["parts"].get(part, {})
    found = {
        name.removeprefix(OF_PROCESS): float(figure["median"])
        for name, figure in figures.items()
        if name.startswith(OF_PROCESS)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _processes(results: Results) -> str:
    costs = {letter: by_process(results, letter) for letter in MIXES if letter in results["parts"]}
    if not costs:
        return ""
    most = {
        name: max(cost.get(name, 0) for cost in costs.values())
        for name in {name for cost in costs.values() for name in cost}
    }
    names = sorted((name for name, ms in most.items() if ms >= _SMALLEST_MS), key=lambda name: -most[name])
    columns = [f"({letter})" for letter in costs]
    rows: list[tuple[str, dict[str, float | None]]] = [
        (name, {f"({letter})": cost.get(name) for letter, cost in costs.items()}) for name in names
    ]
    clients = {f"({letter})": value(results, letter, "clients_cpu_ms_per_job") for letter in costs}
    return table(["CPU ms a job", *columns], [*rows, ("clients (not counted)", clients)])


def _single(results: Results) -> str:
    rows = [
        f"| ({part}) | {text} | {number(found)} {unit} |"
        for part, name, text, unit in _SINGLE
        if (found := value(results, part, name)) is not None
    ]
    return "\n".join(["| part | figure | value |", "| --- | --- | ---: |", *rows]) if rows else ""
