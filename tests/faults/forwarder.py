"""Lets the hosts of a network reach servers that listen only on the loopback address of this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress


@contextmanager
def forwarding(address: str, *ports: int) -> Iterator[None]:
    """Pass connections to these ports of `address` on to the same ports of 127.0.0.1, until the block ends."""
    ready, stop = threading.Event(), asyncio.Event()
    loops = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        servers = [await asyncio.start_server(_passer(port), address, port) for port in ports]
        ready.set()
        await stop.wait()
        for server in servers:
            server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))  # at its end, `run` cancels all connections
    thread.start()
    try:
        assert ready.wait(10), f"{address} has no free ports {ports}"
        yield
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def _passer(port: int):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError), closing(writer):
            there, to = await asyncio.open_connection("127.0.0.1", port)
            with closing(to):
                await asyncio.gather(_copy(reader, to), _copy(there, writer), return_exceptions=True)

    return serve


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
