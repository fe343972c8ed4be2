"""Limits the bodies of requests: their sizes, the time until they are complete, and their bytes in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

from pixtools.errors import BodyTimedOut, BodyTooLarge, Overloaded, PixToolsError, UploadTooLarge
from serve import back_pressure

_MAX_SILENCE_S = 10.0
_MAX_WAIT_S = 30  # how long a body waits for free bytes; then the answer is 503
_GRACE_S = 1.0  # a body is not called slow before this time
_GONE: Message = {"type": "http.disconnect"}


class Body:
    """The body of one request, as it arrives.

    If the body breaks a limit, `error` is set, and the application is told that the client has gone. So the
    application ends at once, and an error while it reads the body does not become another error.
    """

    def __init__(self, receive: Receive, size: int, too_large: PixToolsError, timeout_s: float) -> None:
        self.size = size  # bytes: the length of the body, or its limit if the length is not known
        self.error: PixToolsError | None = None
        self._receive = receive
        self._too_large = too_large
        self._timeout_s = timeout_s
        self.received = 0  # bytes
        self.is_complete = False
        self._waited_s = 0.0  # how long the service has waited for the client, without the present wait
        self._waits_since: float | None = None
        self._timer: asyncio.Timeout | None = None

    async def receive(self) -> Message:
        """Return the next message of the request."""
        if self.is_complete:
            return await self._receive()
        if self.error is not None:
            return _GONE
        now = asyncio.get_running_loop().time()
        self._waits_since = now
        deadline = now + min(_MAX_SILENCE_S, self._timeout_s - self._waited_s)
        try:
            async with asyncio.timeout_at(deadline) as self._timer:
                message = await self._receive()
        except TimeoutError:
            self.error = self.error or BodyTimedOut(
                f"A client may take {self._timeout_s:g} s to send a body (PIXTOOLS_BODY_TIMEOUT), without a pause of "
                f"{_MAX_SILENCE_S:g} s. Send the request again."
            )
            return _GONE
        finally:
            self._timer = None
            self._waited_s, self._waits_since = self._waited(), None
        self.received += len(message.get("body", b""))
        if self.received > self.size:
            self.error = self._too_large
            return _GONE
        self.is_complete = not message.get("more_body", False)
        return message

    def speed(self) -> float:
        """Return the mean speed of the client in bytes per second.

        Return infinity if the service has waited for less than a second, or does not wait now.
        """
        waited_s = self._waited()
        is_awaited = self._waits_since is not None and self.error is None
        return self.received / waited_s if is_awaited and waited_s > _GRACE_S else float("inf")

    def _waited(self) -> float:
        """Return for how many seconds the service has waited for the client."""
        if self._waits_since is None:
            return self._waited_s
        return self._waited_s + asyncio.get_running_loop().time() - self._waits_since

    def end(self) -> None:
        """Stop waiting for the rest of the body."""
        self.error = BodyTimedOut("The body arrived slowly while other requests waited. Send the request again.")
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """Limits the memory that all bodies together take.

    A body reserves its bytes before its first byte is read. While it waits, nothing reads from its connection, so
    TCP pauses the client. The client with the fewest bodies gets free bytes first. One client gets at most half of all
    bytes, or the bytes of one larger body. While a body waits, the slowest body is stopped if it is slower than
    `min_speed` bytes per second.
    """

    def __init__(self, total: int, min_speed: float) -> None:
        self._total = self._free = total
        self._min_speed = min_speed
        self._bodies: dict[Body, str] = {}  # that have their bytes, with their clients
        self._open: Counter[str] = Counter()  # bodies of each client that have their bytes or wait
        self._held: Counter[str] = Counter()  # bytes of each client
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def reserved(self, client: str, body: Body) -> AsyncIterator[Callable[[], None]]:
        """Hold the bytes of a body until the block ends. The block gets a function that gives them back earlier.

        Raises Overloaded if the bytes are not free after 30 seconds.
        """
        size = min(back_pressure.bytes_in_memory(body.size), self._total)
        self._open[client] += 1
        try:
            await self._take(client, size)
        except BaseException:
            self._leave(client)
            raise
        self._bodies[body] = client

        def give_back() -> None:
            if self._bodies.pop(body, None) is not None:
                self._give_back(client, size)
                self._leave(client)

        try:
            yield give_back
        finally:
            give_back()

    def _leave(self, client: str) -> None:
        """Forget one body of a client, and give its bytes to bodies that wait."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client], self._held[client]
        self._grant()

    async def _take(self, client: str, size: int) -> None:
        granted = asyncio.get_running_loop().create_future()
        waiter = (client, size, granted)
        self._waiting.append(waiter)
        self._grant()
        waited_s = 0
        try:
            while not granted.done() and waited_s < _MAX_WAIT_S:
                self._stop_the_slowest(client, size)
                await asyncio.wait({granted}, timeout=1)
                waited_s += 1
        except asyncio.CancelledError:
            if granted.done():
                self._give_back(client, size)
            raise
        finally:
            if not granted.done():
                self._waiting.remove(waiter)
        if not granted.done():
            raise Overloaded("Too many bodies of requests arrive at once. Send the request again in a while.")

    def _grant(self) -> None:
        """Give free bytes to waiting bodies. A large body is not overtaken, otherwise it might wait for ever."""
        for waiter in sorted(self._waiting, key=lambda waiter: self._open[waiter[0]]):
            client, size, granted = waiter
            if self._has_its_half(client, size):
                continue
            if size > self._free:
                return
            self._free -= size
            self._held[client] += size
            self._waiting.remove(waiter)
            granted.set_result(None)

    def _give_back(self, client: str, size: int) -> None:
        self._free += size
        self._held[client] -= size

    def _has_its_half(self, client: str, size: int) -> bool:
        """Return whether the client would have more than half of all bytes with `size` more."""
        return self._held[client] > 0 and self._held[client] + size > self._total / 2

    def _stop_the_slowest(self, client: str, size: int) -> None:
        """A body of `client` waits for other bodies. Stop the slowest of these."""
        is_own = self._has_its_half(client, size)
        bodies = [body for body, sender in self._bodies.items() if sender == client or not is_own]
        slowest = min(bodies, key=Body.speed, default=None)
        if slowest is not None and slowest.speed() < self._min_speed:
            slowest.end()


def body_too_large(limit: int) -> BodyTooLarge:
    """Return the error for a body that is larger than `limit` bytes."""
    return BodyTooLarge(f"At most {limit:,} bytes are accepted here. Send a shorter body.")


def files_too_large(limit: int) -> UploadTooLarge:
    """Return the error for files that have more than `limit` bytes together."""
    return UploadTooLarge(
        f"At most {limit / 1e6:g} MB are accepted for all files together (PIXTOOLS_MAX_UPLOAD_BYTES). "
        "Send smaller files."
    )
