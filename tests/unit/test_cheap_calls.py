"""Cheap calls: which work items share a call, and what happens if a converter gives no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from virtual_time import VirtualTimeLoop, cancel_other_tasks

from actors.cheap_calls import CheapCalls
from actors.converter_pool import ConverterPool, Node

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@dataclass(eq=False)
class Converter:
    """The methods of a converter, as an actor handle has them."""

    ready: Any
    run_all: Any


class Converters:
    """Converters that answer when `free` is set. An answer to a work item is the name of the work item."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.calls: list[list[str]] = []
        self.destroyed = 0
        self.failure: Exception | None = None

    def create(self) -> Any:
        return Converter(SimpleNamespace(remote=self._ready), SimpleNamespace(remote=self._run_all))

    async def _ready(self) -> Node:
        return Node("node", 10**9)

    def destroy(self, _: Any) -> None:
        self.destroyed += 1

    async def _run_all(self, work_items: list[Any]) -> list[Any]:
        self.calls.append([item.name for item in work_items])
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        return [[item.name] for item in work_items]


class Bench:
    """Cheap calls on a pool of converters."""

    def __init__(self, converters: int) -> None:
        self.converters = Converters()
        self.pool = ConverterPool(
            self.converters.create,
            self.converters.destroy,
            minimum=converters,
            maximum=converters,
            idle_s=60,
            limit_bytes=10**8,
        )
        self.cheap_calls = CheapCalls(self.pool, 60)
        self.sent: dict[str, bool] = {}

    def run(self, name: str, owner: str = "ann", memory_bytes: int = 1, cost_ms: float = 1) -> asyncio.Task[Any]:
        work_item: Any = SimpleNamespace(name=name, inputs=SimpleNamespace(owner=owner))

        def on_sent(is_first: bool) -> None:  # noqa: FBT001
            self.sent[name] = is_first

        return asyncio.create_task(self.cheap_calls.run(work_item, memory_bytes, cost_ms, on_sent))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    yield Bench(1)
    await cancel_other_tasks()


async def test_work_items_that_wait_at_the_same_time_share_a_call(bench):
    runs = [bench.run("a")]
    await asyncio.sleep(1)
    assert bench.sent == {"a": True}
    runs += [bench.run(name) for name in "bcdefg"]
    await asyncio.sleep(1)
    bench.converters.free.set()

    assert await asyncio.gather(*runs) == [[name] for name in "abcdefg"]
    assert bench.converters.calls == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
    assert [name for name, is_first in bench.sent.items() if is_first] == ["a", "b", "f"]
    await asyncio.sleep(1)
    assert bench.pool.idle == 1


async def test_idle_converters_share_the_work_items():
    bench = Bench(3)
    await asyncio.sleep(1)

    runs = [bench.run(name) for name in "abcd"]
    await asyncio.sleep(1)

    assert sorted(map(len, bench.converters.calls)) == [1, 1, 2]
    bench.converters.free.set()
    await asyncio.gather(*runs)
    await cancel_other_tasks()


async def test_a_call_does_not_take_much_longer_than_half_a_second(bench):
    runs = [bench.run("a")]
    await asyncio.sleep(1)
    runs += [bench.run("b", cost_ms=250), bench.run("c", cost_ms=250), bench.run("d", cost_ms=250)]
    await asyncio.sleep(1)
    bench.converters.free.set()

    assert await asyncio.gather(*runs) == [["a"], ["b"], ["c"], ["d"]]
    assert bench.converters.calls == [["a"], ["b", "c"], ["d"]]


async def test_pictures_of_different_owners_do_not_share_a_call(bench):
    runs = [bench.run("a")]
    await asyncio.sleep(1)
    runs += [bench.run("b"), bench.run("c", owner="bob"), bench.run("d")]
    await asyncio.sleep(1)
    bench.converters.free.set()

    await asyncio.gather(*runs)

    assert bench.converters.calls == [["a"], ["b", "d"], ["c"]]


async def test_a_work_item_never_joins_a_call_that_declared_less_memory(bench):
    runs = [bench.run("a")]
    await asyncio.sleep(1)
    runs += [bench.run("b"), bench.run("c", memory_bytes=100)]
    await asyncio.sleep(1)
    bench.converters.free.set()

    await asyncio.gather(*runs)

    assert bench.converters.calls == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("failure", "destroyed"),
    [(ActorDiedError(), 1), (RayTaskError("run_all", "", ValueError("a bug")), 0), (AttributeError("a bug"), 1)],
)
async def test_a_call_that_fails_has_no_answer_and_the_next_one_works(bench, failure, destroyed):
    bench.converters.failure = failure
    bench.converters.free.set()

    assert await asyncio.gather(bench.run("a"), bench.run("b")) == [None, None]

    bench.converters.failure = None
    assert await bench.run("c") == ["c"]
    assert bench.converters.destroyed == destroyed


async def test_a_converter_that_does_not_answer_is_replaced(bench):
    stuck = bench.run("a")
    assert await stuck is None
    assert bench.converters.destroyed == 1

    bench.converters.free.set()
    assert await bench.run("b") == ["b"]


async def test_a_cancelled_job_leaves_the_others_of_its_call_alone(bench):
    runs = [bench.run("a")]
    await asyncio.sleep(1)
    runs += [bench.run(name) for name in "bcd"]
    await asyncio.sleep(1)
    runs[2].cancel()  # it waits for a converter
    bench.converters.free.clear()
    runs[0].cancel()  # it runs
    await asyncio.sleep(1)
    bench.converters.free.set()

    assert await asyncio.gather(runs[1], runs[3]) == [["b"], ["d"]]
    assert bench.converters.calls == [["a"], ["b", "d"]]
    assert bench.pool.idle == 1
