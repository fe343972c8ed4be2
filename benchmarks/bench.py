"""Measures what a job costs beyond its pixels, in at most ten minutes: `make bench`.

The command starts one service and loads it. Each mix also runs with plain Pillow (the floor), and one mix runs in
thumbor. `benchmarks/README.md` describes the parts and the figures. The results are in build/bench.json and
build/bench.png, and the command prints them as Markdown tables.

    python benchmarks/bench.py
    python benchmarks/bench.py --only a,d --runs 1
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import chart
import cpu
import parts
import psutil
import report
from figures import Figures, medians
from parts import Bench
from running_service import RunningService, new_home, service, stop

ROOT = Path(__file__).parent.parent
THUMBOR = ROOT / "build/thumbor/bin/thumbor"
LETTERS = "jabtfgwcdeih"  # the parts, in the order in which they run; t is thumbor
_REST_S = 30
_SETTLE_S = 10  # after the start, Ray still starts processes
_DISPATCHER_LIMIT_S = 100
# Seconds that must be left for later parts and for the stop. The first runs of all parts are more important than second
# runs, so they may use more of the time.
_RESERVES_S = {"first parts": (120, 240), "parts with the denoiser": (60, 75)}

Runs = dict[str, list[Figures]]
"""The figures of the runs of each part, by its letter."""


class Clock:
    """Ends the benchmark in time: it says whether there is time for one more run."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Return the seconds until the end of the benchmark."""
        return self._end - time.monotonic()


def main() -> None:
    """Run the benchmark, write its files and print its tables. Exits with status 1 if a job failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(LETTERS), help="the parts to run, such as a,c (t: thumbor)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each part; the result is the median")
    parser.add_argument("--pace", type=float, default=1.0, help="multiplies the duration of every load")
    parser.add_argument("--limit", type=float, default=570, help="seconds; if time is short, parts have fewer runs")
    parser.add_argument("--thumbor", type=Path, default=THUMBOR, help="the command of thumbor")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="the folder of the results")
    options = parser.parse_args()
    letters = options.only.replace(" ", "").split(",")
    if unknown := set(letters) - set(LETTERS):
        parser.error(f"there are no parts {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _end)  # so that the service is stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off for a background job
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.limit)
    runs: Runs = defaultdict(list)
    skipped: dict[str, str] = {}
    results: report.Results = {"machine": machine()}
    if set(letters) - {"h"}:
        measure(letters, options, clock, runs, skipped)
    if "h" in letters:
        with_dispatchers(options, clock, runs, skipped)
    results |= {"skipped": skipped, "parts": {name: medians(runs[name]) for name in sorted(runs)}}
    (options.out / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    chart.draw(results, options.out / "bench.png")
    print(report.markdown(results))
    sys.exit(1 if any(run.get("errors") for found in runs.values() for run in found) else 0)


def measure(letters: list[str], options: argparse.Namespace, clock: Clock, runs: Runs, skipped: dict[str, str]) -> None:
    """Start the service and run all parts that need it. The parts take turns, so that they see the same machine."""
    with new_home() as home, ExitStack() as stack:
        log = options.out / "bench-service.log"
        log.unlink(missing_ok=True)
        running = start(home, log, stack, runs, twice="j" in letters)
        bench = Bench(running, options.thumbor, options.pace)
        stack.callback(bench.close)
        leave_out(bench, letters, skipped)
        rounds = partial(run_rounds, options.runs, clock, runs, skipped)
        if "j" in letters:
            time.sleep(_SETTLE_S)
            run_once("j", partial(parts.rest, bench, _REST_S * min(1, options.pace)), runs)
        first: dict[str, Callable[[], Figures]] = {
            **{letter: partial(parts.mix, bench, letter) for letter in "ab"},
            "t": partial(parts.peer, bench),
            "f": partial(parts.idle, bench),
            "g": partial(parts.reads, bench),
            "w": partial(parts.webhooks, bench),
            **{letter: partial(parts.mix, bench, letter) for letter in "cd"},
        }
        rounds(chosen(first, letters, skipped), _RESERVES_S["first parts"])
        if "g" in letters:
            run_once("g", partial(parts.job_list, bench), runs)
        # These parts start the denoiser, which stays for minutes. So they come last.
        last: dict[str, Callable[[], Figures]] = {
            "e": partial(parts.mix, bench, "e"),
            "i": partial(parts.beside_heavy, bench),
        }
        rounds(chosen(last, letters, skipped), _RESERVES_S["parts with the denoiser"])


def start(home: Path, log: Path, stack: ExitStack, runs: Runs, *, twice: bool) -> RunningService:
    """Start the service. With `twice`, the home is used a second time, and this start is measured."""
    say("start")
    if twice:
        with service(home, log) as first:
            first_s = first.ready_s
        running = stack.enter_context(service(home, log))
        runs["j"].append({"first_start_s": first_s, "second_start_s": running.ready_s})
        return running
    return stack.enter_context(service(home, log))


def leave_out(bench: Bench, letters: list[str], skipped: dict[str, str]) -> None:
    """Note the parts that cannot run here, with the reason."""
    if "t" in letters and not bench.thumbor.exists():
        skipped["t"] = "thumbor is not installed (make bench installs it)"
    if not bench.has_denoiser():
        skipped.update({letter: "the denoiser is not installed" for letter in "ei" if letter in letters})


def chosen(
    found: dict[str, Callable[[], Figures]], letters: list[str], skipped: dict[str, str]
) -> dict[str, Callable[[], Figures]]:
    """Return the parts that were asked for and can run."""
    return {letter: run for letter, run in found.items() if letter in letters and letter not in skipped}


def run_rounds(
    count: int,
    clock: Clock,
    runs: Runs,
    skipped: dict[str, str],
    todo: dict[str, Callable[[], Figures]],
    reserves_s: tuple[float, float],
) -> None:
    """Run all parts in turn, `count` times. Leave out runs that do not fit into the time.

    `reserves_s` are the seconds that must be left after a first run and after a later run.
    """
    longest: dict[str, float] = {}
    for number in range(count):
        for letter, run in todo.items():
            if clock.left_s() - reserves_s[number > 0] < longest.get(letter, 0):
                if number == 0:
                    skipped[letter] = "there was no time left"
                say(f"{letter}, run {number + 1} of {count}: left out, there is no time left")
                continue
            began = time.monotonic()
            say(f"{letter}, run {number + 1} of {count}")
            runs[letter].append(run())
            longest[letter] = max(longest.get(letter, 0), time.monotonic() - began)


def run_once(letter: str, run: Callable[[], Figures], runs: Runs) -> None:
    """Run a part that has one run."""
    say(letter)
    runs[letter].append(run())


def with_dispatchers(options: argparse.Namespace, clock: Clock, runs: Runs, skipped: dict[str, str]) -> None:
    """Run the benchmark of the dispatcher in a process of its own, because it starts other servers."""
    say("h")
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("dispatcher_speed.py"), "--json"],
            stdout=subprocess.PIPE,
            stderr=stack.enter_context((options.out / "bench-dispatcher.log").open("wb")),
        )
        stack.callback(stop, process)  # it stops its servers
        try:
            output, _ = process.communicate(timeout=min(_DISPATCHER_LIMIT_S, max(30, clock.left_s())))
            runs["h"].append(json.loads(output))
        except (subprocess.TimeoutExpired, ValueError) as error:
            skipped["h"] = f"the benchmark of the dispatcher failed: {type(error).__name__}, see bench-dispatcher.log"


def machine() -> dict[str, Any]:
    """Describe this machine, the versions and the commit."""
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "cpu": model,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "pillow": version("pillow"),
        "ray": version("ray"),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "used_by_others_percent": round(cpu.busy_percent()),
    }


def say(text: str) -> None:
    """Print the progress, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _end(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    main()
