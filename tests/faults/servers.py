"""Postgres, Redis and S3 outside the service. They keep their ports when they are stopped and started again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from s3_proxy import S3Proxy

from pixtools.local import postgres_server, redis_server, s3_server
from pixtools.local.home import Home
from pixtools.local.ports import free_port

_S3_DISK = "size=600m"  # twice as much as all tests together write


class Servers:
    """The three servers, with the names `database`, `redis` and `storage`. Requests to S3 go through a proxy.

    Only the main thread may use this class, because a server ends when the thread that started it ends.
    """

    def __init__(self, folder) -> None:
        self.home = Home(folder)
        self._disk = self.home.path / "s3"
        self.disk_is_small = self._mount()
        self._starters = {"database": postgres_server.start, "redis": redis_server.start, "storage": s3_server.start}
        self._ports = {name: free_port() for name in self._starters}
        self._running = {}
        for name in self._starters:
            self.start(name)
        self.proxy = S3Proxy(self._ports["storage"])
        self.env = {name: value for server in self._running.values() for name, value in server.env.items()}
        self.env["PIXTOOLS_S3_ENDPOINT_URL"] = self.proxy.url

    @property
    def database_url(self) -> str:
        """The URL of Postgres."""
        return self.env["PIXTOOLS_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return self.env["PIXTOOLS_REDIS_URL"]

    def close(self) -> None:
        """Stop the proxy and all servers."""
        self.proxy.close()
        for name in list(self._running):
            self.kill(name)
        if self.disk_is_small:
            subprocess.run(["umount", self._disk], check=True)

    def start(self, name: str) -> None:
        """Start a server, and wait until it answers."""
        self._running[name] = self._starters[name](self.home, self._ports[name])
        self._running[name].wait()

    def kill(self, name: str) -> None:
        """Kill a server and its child processes."""
        server = self._running.pop(name)
        for process in self._family(server):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.process.popen.wait()

    def restart(self, name: str) -> None:
        """Stop a server in the orderly way, and start it again."""
        self._running.pop(name).stop()
        self.start(name)

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        """Kill a server, and start it again when the block ends. Meanwhile its port is closed."""
        self.kill(name)
        try:
            yield
        finally:
            self.start(name)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Suspend a server until the block ends. The server keeps its connections, but does not answer."""
        suspended = self._family(self._running[name])
        for process in suspended:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in suspended:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fill the disk of S3 until the block ends."""
        ballast = self.home.path / "s3" / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        assert os.statvfs(self._disk).f_bavail == 0
        try:
            yield
        finally:
            ballast.unlink()

    def _mount(self) -> bool:
        """Mount a small disk in memory for S3. Return whether the system allowed this."""
        self._disk.mkdir()
        if os.geteuid() != 0:
            return False
        return (
            subprocess.run(["mount", "-t", "tmpfs", "-o", _S3_DISK, "tmpfs", self._disk], check=False).returncode == 0
        )

    def _family(self, server) -> list[psutil.Process]:
        leader = psutil.Process(server.process.popen.pid)
        return [leader, *leader.children(recursive=True)]
