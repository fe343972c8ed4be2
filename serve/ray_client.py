"""The HTTP API through Ray, for scripts that reach Ray's client port, but neither the HTTP port nor object storage.

`connect` returns an ordinary client of httpx. The ingress handles its requests like HTTP requests, with the same
checks, records and owners. `serve.ray_api` is the other side.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from actors.placement import NAMESPACE

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 180.0  # of one request; the service answers a waiting request after 60 s at most
_CONNECT_TRIES = 5
_PIECE_BYTES = 1 << 20
_TOKEN = Path(".ray", "auth_token")  # in the home folder, where Ray looks for it


@contextmanager
def connect(address: str, token_file: Path | None = None) -> Iterator[httpx.Client]:
    """Connect this process to a Ray cluster, and return a client of the HTTP API. The client is thread-safe.

    `address` is `ray://HOST:PORT`. `token_file` contains the token of the cluster. Without it, Ray takes the token from
    RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or `~/.ray/auth_token`. A token does not encrypt the connection.

    Raises ConnectionError, with the remedy, if nothing answers at the address, or if the cluster refuses the token or
    the versions of Ray and Python. A request raises httpx.ConnectError if PixTools is not deployed there, or if no
    answer comes within three minutes. A process has one connection at a time. The end of the block closes it.
    """
    _check_that_port_is_open(address)
    _set_environment(token_file)
    _connect(address)
    import ray  # noqa: PLC0415 (see _connect)

    try:
        with httpx.Client(transport=_RayTransport(address), base_url="http://localhost", timeout=None) as client:  # noqa: S113
            yield client
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    # Imported here, because Ray reads the environment when it is imported. The import also takes seconds.
    import ray  # noqa: PLC0415
    from ray.exceptions import AuthenticationError  # noqa: PLC0415

    for left in reversed(range(_CONNECT_TRIES)):
        try:
            with warnings.catch_warnings(action="ignore"):  # the error says the same
                ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionAbortedError as error:
            # Sometimes the process that Ray starts for a client dies: https://github.com/ray-project/ray/issues/63202.
            ray.shutdown()
            if not left:
                raise ConnectionError(f"{address} cannot start a process for this client: {error}") from error
        except (AuthenticationError, RuntimeError) as error:  # RuntimeError: other versions, or a second connection
            raise ConnectionError(str(error)) from error
        except ConnectionError as error:
            raise ConnectionError(
                f"{address} does not accept this client. Perhaps its token is wrong: give the file with the token of "
                f"the cluster, with --token-file or RAY_AUTH_TOKEN_PATH. Ray says: {error}"
            ) from error
        else:
            return


def _check_that_port_is_open(address: str) -> None:
    url = urlsplit(address)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if url.scheme != "ray" or not host or not port:
        raise ConnectionError(f"{address} is not an address of the form ray://HOST:PORT.")
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(f"Nothing answers at {address}: {error}. Ray's client port is usually 10001.") from error


def _set_environment(token_file: Path | None) -> None:
    if token_file is not None:
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would have priority
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (Path.home() / _TOKEN).exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Without this, Ray may start a cluster on this machine after it has lost the connection.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # Without this, Ray uploads the working directory if `uv run` has started this process.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"


class _RayTransport(httpx.BaseTransport):
    """Sends each request as a call of the gateway, and connects again if the connection is lost."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._gateway = _open_gateway()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and wait for the answer. Raises httpx.ConnectError if the service does not answer."""
        import ray  # noqa: PLC0415 (see _connect)

        body = request.read()
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw]
        try:
            # In pieces, because the ingress limits how many bytes of bodies it holds.
            pieces = [ray.put(body[start : start + _PIECE_BYTES]) for start in range(0, len(body), _PIECE_BYTES)]
            call = self._gateway.request.remote(request.method, str(request.url), headers, pieces)
            status, given, content = ray.get(call, timeout=_ANSWER_TIMEOUT_S)
        except Exception as error:  # after the loss of a connection, Ray raises plain Exceptions too
            self._recover()
            raise httpx.ConnectError(str(error), request=request) from error
        return httpx.Response(status, headers=given, content=content, request=request)

    def _recover(self) -> None:
        """Find the gateway again, after a new connection if the old one is lost. A failure here is not reported."""
        import ray  # noqa: PLC0415 (see _connect)

        with self._lock, suppress(Exception):
            if not ray.is_initialized():
                ray.shutdown()
                _connect(self._address)
            self._gateway = _open_gateway()


def _open_gateway() -> Any:
    from serve.ray_gateway import open_gateway  # noqa: PLC0415 (see _connect)

    return open_gateway()
