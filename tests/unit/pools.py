"""Fake converters that start when the test says so, and the fake cluster on which they run."""

from __future__ import annotations

import asyncio

from actors.converter_pool import ConverterPool, Node


class Converter:
    """A converter as the pool sees it. When `starts` is set, the converter is ready or fails to start."""

    def __init__(self, number: int, node: Node, starts: asyncio.Event, *, fails: bool) -> None:
        self.number = number
        self.node = node
        self._starts = starts
        self._fails = fails

    @property
    def ready(self) -> Converter:
        return self

    async def remote(self) -> Node:
        await self._starts.wait()
        if self._fails:
            raise ConnectionError("the node is gone")
        return self.node

    def __repr__(self) -> str:
        return f"converter {self.number}"


class Cluster:
    """A cluster that creates converters on its nodes in turn, and remembers which converters were ended."""

    def __init__(self, *nodes: int) -> None:
        self.nodes = [Node(f"node {number}", bytes_) for number, bytes_ in enumerate(nodes or (1_000_000,))]
        self.starts = asyncio.Event()
        self.starts.set()
        self.failures_left = 0
        self.created: list[Converter] = []
        self.ended: list[Converter] = []

    def create(self) -> Converter:
        self.failures_left -= 1
        number = len(self.created)
        node = self.nodes[number % len(self.nodes)]
        self.created.append(Converter(number, node, self.starts, fails=self.failures_left >= 0))
        return self.created[-1]

    def pool(self, minimum: int, maximum: int, idle_s: float = 60) -> ConverterPool:
        return ConverterPool(
            self.create, self.ended.append, minimum=minimum, maximum=maximum, idle_s=idle_s, limit_bytes=3_000
        )


async def settle() -> None:
    """Let all tasks run until each of them waits for an event or a timer."""
    for _ in range(20):
        await asyncio.sleep(0)


async def take(pool: ConverterPool, memory_bytes: int = 1, timeout_s: float = 5) -> Converter:
    async with asyncio.timeout(timeout_s):
        return await pool.acquire(memory_bytes)


async def take_each(pool: ConverterPool, times: int, memory_bytes: int = 1) -> list[Converter]:
    """Acquire converters one after the other."""
    taken = []
    for _ in range(times):
        taken.append(await take(pool, memory_bytes))
        await settle()
    return taken


def acquire(pool: ConverterPool, times: int, memory_bytes: int = 1) -> list[asyncio.Task[Converter]]:
    return [asyncio.create_task(pool.acquire(memory_bytes)) for _ in range(times)]
