"""A proxy in front of S3 that refuses or delays requests, or cuts their connections."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class S3Proxy:
    """A proxy for the S3 server at `port`. Inside a block `with proxy.behaving(refused=0.3)`, some requests fail.

    The proxy keeps the Host header, because the signature of a request covers this header.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.refused = self.cut = 0.0  # the share of requests that get a 503, and the share whose connection is cut
        self.delay = 0.0  # the longest delay of a request, in seconds
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL of the proxy."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop the proxy."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def behaving(self, **failures: float) -> Iterator[None]:
        """Set `refused`, `cut` or `delay` until the block ends."""
        before = {name: getattr(self, name) for name in failures}
        vars(self).update(failures)
        yield
        vars(self).update(before)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    proxy: S3Proxy

    def handle_error(self, request, client_address) -> None:
        """Print nothing: broken connections are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def pass_on(self) -> None:
        proxy = self.server.proxy
        time.sleep(random.uniform(0, proxy.delay))
        length = int(self.headers.get("Content-Length") or 0)
        cut = random.random() < proxy.cut
        if cut and random.random() < 0.5:
            self.rfile.read(length // 2)
            return self.hang_up()
        body = self.rfile.read(length)
        if random.random() < proxy.refused:
            return self.answer(503, [("Content-Type", "text/plain")], b"Slow down.")
        try:
            status, headers, answer = self.ask(body)
        except OSError:
            return self.hang_up()
        self.answer(status, headers, answer, len(answer) // 2 if cut else None)
        return self.hang_up() if cut else None  # although S3 has already executed the request

    do_GET = do_PUT = do_HEAD = pass_on  # noqa: N815 (the base class calls these names)

    def ask(self, body: bytes):
        """Send the request to S3. Return the status, the headers and the body of the answer."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.port, timeout=60)
        with closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def answer(self, status, headers, body: bytes, sent_bytes: int | None = None) -> None:
        """Answer with the first `sent_bytes` bytes of the body. If `sent_bytes` is None, answer with the whole body."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if sent_bytes is None or body:
            self.end_headers()
        self.wfile.write(body[:sent_bytes])

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
