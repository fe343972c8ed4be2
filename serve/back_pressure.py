"""Makes Serve read the body of a request only as fast as the application reads it.

Serve has two queues for the messages of a body: one in its proxy and one in the replica. With HAProxy, it has another
one in the replica. No queue has a bound, so each process would hold the whole body in memory. Serve has no setting for
this. So `install` replaces the classes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ray.serve._private import direct_ingress_http_util, http_util, proxy, replica
from starlette.types import Message

_MAX_WAITING_BYTES = 1 << 18  # of one body in one queue; the last message may exceed it
_WITHOUT_TURN_BYTES = 1_000_000  # a smaller body never waits for a turn
_TURN_S = 5.0  # a replica that hangs loses its turn after this time
# An estimate for one body, in both queues and in the parser. While a body has the turn, it takes about twice as much.
_BYTES_IN_MEMORY = 2_000_000


def install() -> None:
    """Bound the queues of this process, whether it is a proxy or a replica."""
    proxy.MessageQueue = partial(BoundedMessages, Turns())
    replica.ASGIReceiveProxy = PacedReceive
    replica.ASGIDIReceiveProxy = PacedDirectReceive


def bytes_in_memory(size: int) -> int:
    """Return how many bytes a body of `size` bytes takes in memory."""
    return min(size, _BYTES_IN_MEMORY)


class Turns:
    """Lets the large bodies of one proxy take turns. Only one body has a turn, and the body that waits longest is next.

    While other bodies wait, a pause follows each turn, and the pause is as long as the turn. So many large bodies leave
    time for other requests. A single large body has no pause.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)
        self._waiting = 0
        self._began = 0.0

    async def begin(self) -> None:
        """Wait for a turn."""
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._began = asyncio.get_running_loop().time()

    def end(self) -> None:
        """End the present turn."""
        if self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_later(loop.time() - self._began, self._free.release)
        else:
            self._free.release()

    @property
    def is_free(self) -> bool:
        """Whether a body would get a turn at once."""
        return not self._free.locked()


class BoundedMessages(http_util.MessageQueue):  # type: ignore[misc]
    """The queue in the proxy. While it holds 256 kB or more, it takes no further piece of a body.

    After its first megabyte, a body needs one of the `turns` each time when the replica fetches messages. The turn ends
    when the replica asks for more, because the application has then read these messages. So large bodies delay other
    requests little, even if many arrive at once. While a client sends nothing, its body has no turn.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._end_of_turn: asyncio.TimerHandle | None = None  # None: it has no turn
        self._waiting_bytes = 0
        self._fetched_bytes = 0
        self._has_room = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        """Add a message. A piece of a body waits until there is room. A disconnect message does not wait."""
        while message.get("body") and self._waiting_bytes >= _MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._waiting_bytes += len(message.get("body", b""))
        await super().__call__(message)

    async def wait_for_message(self) -> None:
        """Wait until there is a message and, if the body needs a turn, until it has a turn."""
        self._end_turn()
        await super().wait_for_message()
        if self._fetched_bytes > _WITHOUT_TURN_BYTES and not self._closed:
            await self._turns.begin()
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
        """Close the queue when the request ends."""
        self._end_turn()
        super().close()

    def _end_turn(self) -> None:
        if self._end_of_turn is not None:
            self._end_of_turn.cancel()
            self._end_of_turn = None
            self._turns.end()


class PacedReceive(http_util.ASGIReceiveProxy):  # type: ignore[misc]
    """The queue in the replica. It fetches messages from the proxy only when it is empty."""

    def __init__(self, scope: Any, request_metadata: Any, receive_asgi_messages: Any) -> None:
        super().__init__(scope, request_metadata, self._fetch)
        self._fetch_now = receive_asgi_messages
        self._is_empty = asyncio.Event()

    async def _fetch(self, request_metadata: Any) -> bytes:
        if not self.queue.empty():
            self._is_empty.clear()
            await self._is_empty.wait()
        pickled: bytes = await self._fetch_now(request_metadata)
        return pickled

    async def __call__(self) -> Message:
        """Return the next message."""
        message: Message = await super().__call__()
        if self.queue.empty():
            self._is_empty.set()
        return message


class PacedDirectReceive(direct_ingress_http_util.ASGIDIReceiveProxy):  # type: ignore[misc]
    """The queue in a replica that HAProxy calls directly. It takes the next message only when it is empty.

    While it takes nothing, uvicorn reads nothing from the connection, and TCP pauses HAProxy and the client.
    """

    def __init__(self, scope: Any, receive: Any, user_event_loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(scope, self._receive_when_empty, user_event_loop)
        self._receive_now = receive
        self._own_loop: asyncio.AbstractEventLoop | None = None  # the loop of uvicorn
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def _receive_when_empty(self) -> Message:
        self._own_loop = asyncio.get_running_loop()
        await self._is_empty.wait()
        message: Message = await self._receive_now()
        if message.get("more_body", False):
            self._is_empty.clear()
        return message

    async def __call__(self) -> Message:
        """Return the next message."""
        message: Message = await super().__call__()
        if self.queue.empty() and self._own_loop is not None:
            if asyncio.get_running_loop() is self._own_loop:
                self._is_empty.set()
            else:  # Serve runs the application in another thread
                self._own_loop.call_soon_threadsafe(self._is_empty.set)
        return message
