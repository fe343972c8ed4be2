"""Fake converters without Ray. A graph calls them like Ray actors, and a test decides when they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from actors.converter_pool import Node
from dag.messages import WorkItem
from pixtools.errors import StorageDown
from pixtools.jobs.outcomes import Failed, Started, Stored, Succeeded


class FakeConverter:
    """A converter that reports an outcome for each step of a work item as soon as `finish` is set."""

    def __init__(self, all_converters: FakeConverters) -> None:
        self._all = all_converters
        self.ready = _Method(self._ready)
        self.run = _Method(self._run)
        self.run_all = _Method(self._run_all)

    async def _ready(self) -> Node:
        await self._all.ready.wait()
        return Node("node", 10**9)

    async def _run(self, work_item: WorkItem, *_: Any) -> AsyncIterator[asyncio.Future[Any]]:
        self._all.calls += 1
        self._all.steps.append([step.name for step in work_item.segment.steps])
        yield _reference(Started(work_item.segment.steps[0].name))
        await self._all.finish.wait()
        for step in work_item.segment.steps:
            if step.name in self._all.slow:
                await asyncio.sleep(3600)
            if step.name in self._all.failing:
                yield _reference(Failed(step.name, StorageDown()))
                continue
            stored = Stored(step.key, f"blob of {step.name}", "image/png", 9, "cd" * 32, 64, 48)
            yield _reference(Succeeded(step.name, stored, 1))

    async def _run_all(self, work_items: list[WorkItem]) -> list[list[Any]]:
        return [[await reference async for reference in self._run(work_item)] for work_item in work_items]


class FakeConverters:
    """A factory of fake converters. It remembers which converters were destroyed, counts the calls, and remembers
    the steps of each call.

    The steps in `slow` take an hour, and the steps in `failing` fail.
    """

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()
        self.slow: set[str] = set()
        self.failing: set[str] = set()
        self.calls = 0
        self.steps: list[list[str]] = []
        self.created: list[FakeConverter] = []
        self.destroyed: list[FakeConverter] = []

    def create(self) -> FakeConverter:
        self.created.append(FakeConverter(self))
        return self.created[-1]


class _Method:
    """A stand-in for a method of a Ray actor, with the same interface."""

    def __init__(self, call: Any) -> None:
        self.remote = call

    def options(self, **_: object) -> _Method:
        return self


def _reference(value: object) -> asyncio.Future[Any]:
    reference = asyncio.get_running_loop().create_future()
    reference.set_result(value)
    return reference
