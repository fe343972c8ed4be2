"""An object store that fails as a test tells it to. Without a failure it keeps objects and checks no signatures."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ScriptedStore:
    """The state of the store.

    Each request takes the first entry of `script`, which is one of these:

    - a number: the store answers with this status
    - "cut": the connection ends in the middle of the object
    - "hang up": the connection ends without an answer
    - "close": the connection ends after the answer, without a warning
    - "sleep": the answer takes so long that the client gives up
    """

    url: str = ""
    script: list[Any] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)  # the last one is the client
    received_bytes: int = 0


@contextmanager
def scripted_store(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedStore]:
    """Run a store on a free port, which speaks HTTPS if `tls` is given."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.store = ScriptedStore(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.store
        finally:  # otherwise, the thread would keep the process of a failed test busy for ever
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self) -> bool:
        if self.server.store.script[:1] == [403]:
            self.do_PUT(sends_body=False)
            return False
        return super().handle_expect_100()

    def do_GET(self) -> None:
        turn = self.turn()
        data = self.server.store.objects.get(self.path)
        if turn in ("cut", "close", None):
            self.answer(404 if data is None else 200, data or b"", turn)
        else:
            self.fail(turn)

    def do_HEAD(self) -> None:
        turn = self.turn()
        if turn is None:
            is_there = self.path in {"/pix/", "/pix"} or self.path in self.server.store.objects
            self.answer(200 if is_there else 404, b"", None)
        else:
            self.fail(turn)

    def do_DELETE(self) -> None:
        turn = self.turn()
        if turn is None:
            self.server.store.objects.pop(self.path, None)
            self.answer(204, b"", None)
        else:
            self.fail(turn)

    def do_PUT(self, *, sends_body: bool = True) -> None:
        turn, store, data = self.turn(), self.server.store, bytearray()
        left = int(self.headers["Content-Length"]) if sends_body else 0
        while left and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)
            data += chunk
        store.received_bytes += len(data)
        if turn in ("close", None):
            assert self.headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
            store.objects[self.path], store.types[self.path] = bytes(data), self.headers["Content-Type"]
            self.answer(200, b"", turn)
        else:
            self.fail(turn)

    def turn(self) -> Any:
        store = self.server.store
        store.requests.append((self.command, self.path, dict(self.headers), self.client_address))
        return store.script.pop(0) if store.script else None

    def fail(self, turn: Any) -> None:
        if isinstance(turn, int):
            self.answer(turn, b"<Error><Code>Failed</Code></Error>", None)
        if turn == "sleep":
            time.sleep(16)
        if turn in ("sleep", "hang up"):
            self.hang_up()

    def answer(self, status: int, body: bytes, turn: Any) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if turn == "cut" else body)
        if turn is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
