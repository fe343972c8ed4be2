"""The pure parts of the benchmarks: percentiles, the open loop, CPU time of processes, and the simulation."""

from __future__ import annotations

import asyncio
import io
import math
import random
import time

import cpu
import httpx
import pytest
from figures import arrivals, latencies, medians, number, quantile, table
from load import open_loop
from pictures import Supply, with_comment
from PIL import Image
from scaling import ROUTE, Part, bottleneck, simulate


def test_a_quantile_is_the_value_of_the_nearest_rank():
    values = list(range(1, 101))
    assert [quantile(values, q) for q in (0, 0.5, 0.95, 0.99, 1)] == [1, 50, 95, 99, 100]
    assert quantile([7.0], 0.99) == 7
    assert math.isnan(quantile([], 0.5))


def test_latencies_are_percentiles_in_milliseconds():
    assert latencies("open", [0.1, 0.2]) == {"open_p50_ms": 100, "open_p95_ms": 200, "open_p99_ms": 200}


def test_arrivals_are_evenly_spaced():
    assert arrivals(4, 1.25) == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_slow_answer_delays_no_later_arrival_and_its_latency_counts_from_the_intended_time():
    async def run():
        async def call(_):
            began.append(time.perf_counter())
            time.sleep(0.2 if len(began) == 1 else 0)  # noqa: ASYNC251 (blocks the loop, as a busy generator does)
            await asyncio.sleep(0.1)
            return 0

        began: list[float] = []
        return await open_loop("http://127.0.0.1:1", call, rate=20, seconds=0.5)

    result = asyncio.run(run())
    assert len(result.latencies) == 10
    assert not result.errors
    # The second call was due after 0.05 s, but the blocked loop began it only after 0.2 s. Its latency includes this.
    assert sorted(result.latencies)[-2] > 0.2


def test_failed_calls_are_errors_and_have_no_latency():
    async def refuse(_):
        raise httpx.ConnectError("no")

    result = asyncio.run(open_loop("http://127.0.0.1:1", refuse, rate=100, seconds=0.05))
    assert result.latencies == []
    assert len(result.errors) == 5


def test_medians_leave_out_figures_that_a_run_lacks():
    runs = [{"a": 1.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0, "b": math.nan}]
    assert medians(runs) == {"a": {"median": 2, "runs": [1, 3, 2]}, "b": {"median": 5, "runs": [5]}}


def test_a_table_has_three_digits_and_dashes():
    assert [number(value) for value in (0, 16, 0.0421, 4.234, 153.4, 12345.6, None)] == [
        "0", "16", "0.042", "4.23", "153", "12,346", "–",
    ]  # fmt: skip
    assert table(["mix", "x"], [("a", {"x": 1.5})]) == "| mix | x |\n| --- | ---: |\n| a | 1.50 |"


def test_cpu_time_of_processes_that_ended_is_counted_once():
    before = {(1, 0.0): cpu.Usage("raylet", 5, 1), (2, 0.0): cpu.Usage("converters", 3, 0)}
    # Process 2 used one more second and ended, so its four seconds moved to its parent. Process 3 is new.
    after = {(1, 0.0): cpu.Usage("raylet", 6, 5), (3, 0.0): cpu.Usage("ingress", 0.5, 0)}
    assert cpu.spent(before, after) == {"raylet": 1, "ingress": 0.5, cpu.ENDED: 1}


def test_each_picture_of_a_supply_is_another_file_with_the_same_pixels():
    out = io.BytesIO()
    Image.linear_gradient("L").save(out, "JPEG")
    supply = Supply([out.getvalue()])
    first, second = supply.take()[1], supply.take()[1]
    assert first != second
    assert Image.open(io.BytesIO(first)).tobytes() == Image.open(io.BytesIO(out.getvalue())).tobytes()
    assert Image.open(io.BytesIO(with_comment(out.getvalue(), "hello"))).info["comment"] == b"hello"


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a job waits in an M/M/c queue. `load` is the mean number of busy servers."""
    waiting = load**servers / math.factorial(servers) * servers / (servers - load)
    return waiting / (sum(load**k / math.factorial(k) for k in range(servers)) + waiting)


@pytest.mark.parametrize(("servers", "share"), [(1, 0.5), (4, 0.8)])
def test_the_simulation_agrees_with_the_formula_for_one_queue(servers, share):
    rng = random.Random(3)
    job_s, rate = 0.1, share * servers / 0.1
    part = Part("only", servers, job_s, 1)
    outcome = simulate([part], ["only"], rate, 40_000, lambda mean_s: rng.expovariate(1 / mean_s))
    wait_s = erlang_c(servers, rate * job_s) / (servers / job_s - rate)
    assert sum(outcome.waits_s["only"]) / 40_000 == pytest.approx(wait_s, rel=0.1)
    assert outcome.busy["only"] == pytest.approx(share, rel=0.05)


def test_the_simulated_rate_never_exceeds_the_limit_of_the_bottleneck():
    parts = [Part(name, 3, 0.01, ROUTE.count(name)) for name in dict.fromkeys(ROUTE)]
    parts[0] = Part(parts[0].name, 1, 0.02, 1)
    first = bottleneck(parts)
    assert first.limit == 50
    outcome = simulate(parts, ROUTE, 500, 2000, lambda mean_s: mean_s)
    assert outcome.busy[first.name] > 0.99
    assert max(outcome.latencies_s) == pytest.approx(2000 / 50 - 2000 / 500, rel=0.1)
