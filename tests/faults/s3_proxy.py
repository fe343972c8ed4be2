"""A proxy before S3 that does what a bad network and a bad day do."""

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
    """Passes requests on to the S3 server at `port`; `with proxy.behaving(refused=0.3)` makes it worse.

    It keeps the Host header, which is signed.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.refused = self.cut = 0.0  # the shares of requests that are
        self.delay = 0.0  # seconds, at most
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def behaving(self, **how: float) -> Iterator[None]:
        before = {name: getattr(self, name) for name in how}
        vars(self).update(how)
        yield
        vars(self).update(before)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    proxy: S3Proxy

    def handle_error(self, request, client_address) -> None:
        """Say nothing: connections that break are what we are for."""


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
        return self.hang_up() if cut else None  # though what it asked for was done

    do_GET = do_PUT = do_HEAD = pass_on  # noqa: N815 (called by these names)

    def ask(self, body: bytes):
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.port, timeout=60)
        with closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def answer(self, status, headers, body: bytes, most: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if most is None or body:
            self.end_headers()
        self.wfile.write(body[:most])

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
