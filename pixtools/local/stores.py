"""Starts and stops the servers that keep data: Postgres, Redis and S3. A server whose URL is set is not started."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pixtools.local import postgres_server, redis_server, s3_server
from pixtools.local.keeper import Kept
from pixtools.local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings
    from pixtools.local.server import Server


def start(home: Home, settings: LocalSettings, stack: ExitStack) -> list[Kept]:
    """Start the servers, but do not wait for them. When `stack` closes, it stops the servers, the last one first."""
    starts: list[Callable[[], Server]] = []
    if settings.database_url is None:
        starts.append(partial(postgres_server.start, home, free_port()))
    if settings.redis_url is None:
        starts.append(partial(redis_server.start, home, free_port()))
    if settings.s3_endpoint_url is None:
        starts.append(partial(s3_server.start, home, settings.s3_port, bucket=settings.s3_bucket, host=settings.host))
    kept = []
    for start_server in starts:
        kept.append(Kept(start_server(), start_server))
        stack.callback(kept[-1].stop)
    return kept


@contextmanager
def running(home: Home) -> Iterator[dict[str, str]]:
    """Run the three servers on free ports, for tests. Yield the PIXTOOLS_* variables that contain their addresses.

    Call this function from the main thread, because the servers end when the calling thread ends.
    """
    with home.locked("no address"), ExitStack() as stack:
        servers = []
        for start_server in (postgres_server.start, redis_server.start, s3_server.start):
            servers.append(start_server(home, free_port()))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
        yield {name: value for server in servers for name, value in server.env.items()}
