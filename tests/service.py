"""The whole service, started with `pixtools up`, as a user would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pixtools.local import processes, ray_head
from pixtools.local.home import Home
from pixtools.local.ports import free_port

PIXTOOLS = Path(sys.executable).with_name("pixtools")


@dataclass
class Stack:
    """One service, started with `pixtools up`. It has its own home and its own ports."""

    home: Path
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    ray_client_port: int = field(default_factory=free_port)
    s3_port: int = field(default_factory=free_port)
    extra_env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """The URL of the page and the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def dashboard_url(self) -> str:
        """The URL of the Ray dashboard."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def token(self) -> str:
        """The token of the Ray cluster."""
        return (self.home / "secrets" / "ray-token").read_text()

    @property
    def ports(self) -> list[int]:
        """Every port that the settings assign to the service."""
        return [self.port, self.dashboard_port, self.ray_client_port, self.s3_port]

    @property
    def ray_folder(self) -> Path:
        """The folder of the Ray head."""
        return ray_head.folder(Home(self.home))

    @property
    def output(self) -> str:
        """Everything that `pixtools up` has printed."""
        return self.home.with_suffix(".out").read_text()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of `pixtools up`."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIXTOOLS_", "RAY_"))}
        return {
            **inherited,
            "PIXTOOLS_MAX_CLIENT_REFUSALS": "100000",  # all tests are one client
            **self.extra_env,
            "PIXTOOLS_HOME": str(self.home),
            "PIXTOOLS_PORT": str(self.port),
            "PIXTOOLS_DASHBOARD_PORT": str(self.dashboard_port),
            "PIXTOOLS_RAY_CLIENT_PORT": str(self.ray_client_port),
            "PIXTOOLS_S3_PORT": str(self.s3_port),
        }

    @property
    def env(self) -> dict[str, str]:
        """The PIXTOOLS_* variables of the running service, read from the process of its Ray head."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # the process has just ended
                environment = process.environ()
                if "RAY_AUTH_TOKEN_PATH" in environment:
                    return {name: value for name, value in environment.items() if name.startswith("PIXTOOLS_")}
        raise AssertionError("no Ray head runs")

    def launch(self, *arguments: str | Path) -> None:
        """Start `pixtools up`, without waiting until the service is ready."""
        self.run(PIXTOOLS, "up", *arguments)

    def run(self, *command: str | Path) -> None:
        """Start the service with `command`, without waiting until the service is ready."""
        with self.home.with_suffix(".out").open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout: float = 180) -> None:
        """Wait until the service accepts jobs. Fails if `pixtools up` ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while "Ctrl-C stops it." not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def wait_until_gone(self, timeout: float = 30) -> None:
        """Wait until no process of this service is left. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def stop(self) -> int:
        """Stop the service as Ctrl-C does, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the service: the launcher, its descendants and orphaned processes."""
        family = []
        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            family = [launcher, *launcher.children(recursive=True)]
        orphans = processes.started_for(self.home, self.ray_folder)
        return [process for process in {*family, *orphans} if processes.is_alive(process)]

    def kill(self) -> None:
        """Kill all processes at once, as a power failure does."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # the process has ended together with another one
                process.kill()
