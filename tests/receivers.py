"""Receivers of webhooks: real HTTP servers on loopback that answer well or badly, and keep what they got."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Received:
    """One request. `at` is the time of its arrival in seconds since 1970."""

    headers: dict[str, str]
    body: bytes
    path: str
    at: float


@dataclass
class Receiver:
    """A running server. A test may replace `answer` at any time."""

    url: str
    answer: Answer
    received: list[Received] = field(default_factory=list)
    most_at_once: int = 0
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of each request."""
        return [each.headers["webhook-id"] for each in self.received]

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the requests that are open at the same time."""
        with self._lock:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1


def status(code: int, body: bytes = b"", after_s: float = 0.0, **headers: str) -> Answer:
    """Answer with a status. In the names of headers, underscores stand for hyphens."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(after_s)
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Give each answer once, and the last one from then on."""
    left = list(answers)

    def answer(request: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


def cut(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def endless(request: BaseHTTPRequestHandler) -> None:
    """Send a body that never ends, as fast as possible."""
    _begin(request)
    while True:
        request.wfile.write(b"x" * 65_536)


def dripping(request: BaseHTTPRequestHandler) -> None:
    """Send one byte of the headers each second."""
    for byte in b"HTTP/1.1 204 No Content\r\nX-Slow: " + b"x" * 60:
        request.wfile.write(bytes([byte]))
        request.wfile.flush()
        time.sleep(1)


def dripping_body(request: BaseHTTPRequestHandler) -> None:
    """Send complete headers, and then one byte of the body each second."""
    _begin(request)
    for _ in range(60):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(1)


def _begin(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.send_response(200)
    request.end_headers()


@contextmanager
def receiver(answer: Answer | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver. By default it accepts everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            running.received.append(Received(headers, body, self.path, time.time()))
            with running.counted(), suppress(OSError):
                running.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that closes its connection is no error of a test

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "http" if tls is None else "https"
    running = Receiver(f"{scheme}://127.0.0.1:{server.server_port}/hook", answer or status(204))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server whose certificate nobody trusts."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
