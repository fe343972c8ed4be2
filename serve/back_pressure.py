"""Makes Serve read the body of a request only as fast as the application takes it.

Serve has two queues for the messages of a body: one in its proxy and one in the replica. Neither has a bound, so both
processes would hold the whole body in memory. Serve has no setting for this, so `install` replaces the two classes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ray.serve._private import http_util, proxy, replica
from starlette.types import Message

_MAX_WAITING_BYTES = 1 << 18  # of one body in one queue; the last message may exceed it
_WITHOUT_TURN_BYTES = 1_000_000  # photos of this size are never delayed
_TURNS = 1  # in each proxy; with two, honest jobs waited twice as long under attack
_TURN_S = 5.0  # a replica that hangs must not keep the turn


def install() -> None:
    """Bound the queues of this process, whether it is a proxy or a replica.

    With HAProxy, Serve has another queue in the replica, which stays without a bound.
    """
    proxy.MessageQueue = partial(BoundedMessages, asyncio.Semaphore(_TURNS))
    replica.ASGIReceiveProxy = PacedReceive


class BoundedMessages(http_util.MessageQueue):  # type: ignore[misc]
    """The queue in the proxy. It takes another piece of a body only while less than 256 kB wait.

    After its first megabyte, a body needs one of the `turns` whenever the replica fetches messages. The turn ends when
    the application has taken these messages, because then the replica asks for more. Therefore large bodies hardly
    delay other requests, even if many arrive at once. A client that sends slowly holds no turn.
    """

    def __init__(self, turns: asyncio.Semaphore) -> None:
        super().__init__()
        self._turns = turns
        self._end_of_turn: asyncio.TimerHandle | None = None  # None: it has no turn
        self._waiting_bytes = 0
        self._fetched_bytes = 0
        self._has_room = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        """Add a message. A piece of a body waits for room. The news that the client has gone does not."""
        while message.get("body") and self._waiting_bytes >= _MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._waiting_bytes += len(message.get("body", b""))
        await super().__call__(message)

    async def wait_for_message(self) -> None:
        """Wait until the replica may fetch messages."""
        self._end_turn()
        await super().wait_for_message()
        if self._fetched_bytes > _WITHOUT_TURN_BYTES and not self._closed:
            await self._turns.acquire()
            self._end_turn()
            self._end_of_turn = asyncio.get_running_loop().call_later(_TURN_S, self._end_turn)
            if self._closed:  # the request ended while it waited for the turn
                self._end_turn()

    def get_messages_nowait(self) -> list[Message]:
        """Return all messages that wait."""
        self._fetched_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        self._has_room.set()
        messages: list[Message] = super().get_messages_nowait()
        return messages

    def close(self) -> None:
        """End the request."""
        self._end_turn()
        super().close()

    def _end_turn(self) -> None:
        if self._end_of_turn is not None:
            self._end_of_turn.cancel()
            self._end_of_turn = None
            self._turns.release()


class PacedReceive(http_util.ASGIReceiveProxy):  # type: ignore[misc]
    """The queue in the replica. It fetches messages from the proxy when the application has taken the earlier ones."""

    def __init__(self, scope: Any, request_metadata: Any, receive_asgi_messages: Any) -> None:
        super().__init__(scope, request_metadata, self._fetch)
        self._fetch_now = receive_asgi_messages
        self._is_empty = asyncio.Event()

    async def _fetch(self, request_metadata: Any) -> bytes:
        if not self.queue.empty():
            self._is_empty.clear()
            await self._is_empty.wait()
        fetched: bytes = await self._fetch_now(request_metadata)
        return fetched

    async def __call__(self) -> Message:
        """Return the next message."""
        message: Message = await super().__call__()
        if self.queue.empty():
            self._is_empty.set()
        return message
