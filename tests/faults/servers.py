"""Postgres, Redis and S3 outside the service, on ports that they keep when they are stopped and started again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from s3_proxy import S3Proxy

from pixtools.local import postgres_server, redis_server, s3_server
from pixtools.local.home import Home
from pixtools.local.ports import free_port

_S3_DISK = "size=600m"  # twice what all tests together put on it


class Servers:
    """To be used by the main thread alone: each server ends with the thread that started it."""

    def __init__(self, folder) -> None:
        self.home = Home(folder)
        self._disk = self.home.path / "s3"
        self.disk_is_small = self._mount()
        self._start = {"database": postgres_server.start, "redis": redis_server.start, "storage": s3_server.start}
        self._ports = {name: free_port() for name in self._start}
        self._running = {}
        for name in self._start:
            self.begin(name)
        self.proxy = S3Proxy(self._ports["storage"])
        self.env = {name: value for server in self._running.values() for name, value in server.env.items()}
        self.env["PIXTOOLS_S3_ENDPOINT_URL"] = self.proxy.url

    @property
    def database_url(self) -> str:
        return self.env["PIXTOOLS_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        return self.env["PIXTOOLS_REDIS_URL"]

    def close(self) -> None:
        self.proxy.close()
        for name in list(self._running):
            self.kill(name)
        if self.disk_is_small:
            subprocess.run(["umount", self._disk], check=True)

    def begin(self, name: str) -> None:
        self._running[name] = self._start[name](self.home, self._ports[name])
        self._running[name].wait()

    def kill(self, name: str) -> None:
        """End a server and its children at once."""
        server = self._running.pop(name)
        for process in self._family(server):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.process.popen.wait()

    def restart(self, name: str) -> None:
        """End a server in good order and start it again."""
        self._running.pop(name).stop()
        self.begin(name)

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Let nobody be at the server's address meanwhile."""
        self.kill(name)
        try:
            yield
        finally:
            self.begin(name)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Let a server keep its connections and say nothing."""
        stopped = self._family(self._running[name])
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Leave no room on the disk of S3."""
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
        """Give S3 a small disk in memory, where we may."""
        self._disk.mkdir()
        if os.geteuid() != 0:
            return False
        return (
            subprocess.run(["mount", "-t", "tmpfs", "-o", _S3_DISK, "tmpfs", self._disk], check=False).returncode == 0
        )

    def _family(self, server) -> list[psutil.Process]:
        leader = psutil.Process(server.process.popen.pid)
        return [leader, *leader.children(recursive=True)]


def wait_for(true, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
