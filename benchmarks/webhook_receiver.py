"""A receiver of webhooks that accepts everything and counts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Receiver:
    """A running receiver, and the number of the webhooks that it got."""

    url: str
    received: int = 0

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Wait until `number` webhooks have arrived. Return whether they have."""
        deadline = time.monotonic() + timeout_s
        while self.received < number and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.received >= number


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                running.received += 1
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Receiver(f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
