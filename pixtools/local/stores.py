"""The three servers that keep data: each started here unless its URL is given."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pixtools.local import postgres_server, redis_server, s3_server
from pixtools.local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings
    from pixtools.local.server import Server


def start(home: Home, settings: LocalSettings, stack: ExitStack) -> list[Server]:
    """Start the servers, which get ready side by side; `stack` stops them, the last one first."""
    servers = []
    if settings.database_url is None:
        servers.append(postgres_server.start(home, free_port()))
        stack.callback(servers[-1].stop)
    if settings.redis_url is None:
        servers.append(redis_server.start(home, free_port()))
        stack.callback(servers[-1].stop)
    if settings.s3_endpoint_url is None:
        servers.append(s3_server.start(home, settings.s3_port, bucket=settings.s3_bucket, host=settings.host))
        stack.callback(servers[-1].stop)
    return servers


@contextmanager
def running(home: Home) -> Iterator[dict[str, str]]:
    """Run all three on free ports, for tests; yields the PIXTOOLS_* variables that point the service at them.

    They end with the calling thread, so call this from the main one.
    """
    with home.locked("no address"), ExitStack() as stack:
        servers = []
        for start_server in (postgres_server.start, redis_server.start, s3_server.start):
            servers.append(start_server(home, free_port()))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
        yield {name: value for server in servers for name, value in server.env.items()}
