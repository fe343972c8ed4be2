"""Starts and stops one service for a benchmark, with a home and ports of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from pixtools.local import ray_head
from pixtools.local.home import Home
from pixtools.local.ports import free_port

_START_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 60
# All clients of a benchmark have one address. With the usual limits, the service would refuse some of their requests.
_ONE_CLIENT = {
    f"PIXTOOLS_MAX_CLIENT_{name}": "1000000" for name in ("REQUESTS", "STREAMS", "REFUSALS")
}  # fmt: skip


_RECEIVERS_HERE = {"PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS": "1"}


@dataclass(frozen=True)
class RunningService:
    """A service that is ready. `ready_s` is the time from its start until it accepted jobs, in seconds."""

    url: str
    home: Path
    launcher: psutil.Process
    ready_s: float

    def database_url(self) -> str:
        """Return the URL of the database, with the password."""
        environments = (process.environ() for process in self.launcher.children(recursive=True))
        return next(str(env["PIXTOOLS_DATABASE_URL"]) for env in environments if "RAY_AUTH_TOKEN_PATH" in env)


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """Yield the path of a home for services. It is deleted at the end, with the folder of its Ray head."""
    with tempfile.TemporaryDirectory(prefix="pixtools-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # Postgres may run as another user
        home = Path(folder) / "home"
        try:
            yield home
        finally:
            if home.exists():
                ray_head.remove_folder(Home(home))


@contextlib.contextmanager
def service(home: Path, log: Path | None = None, *, limit_clients: bool = False) -> Iterator[RunningService]:
    """Run `pixtools up` in `home`, and stop it at the end.

    `log` gets what the service prints; without `log`, stderr gets it. The service inherits no settings of PixTools and
    Ray. Unless `limit_clients` is set, a client may have any number of open requests. Raises RuntimeError if the
    service ends, or is not ready after three minutes.
    """
    names = ("PIXTOOLS_PORT", "PIXTOOLS_DASHBOARD_PORT", "PIXTOOLS_RAY_CLIENT_PORT", "PIXTOOLS_S3_PORT")
    ports = {name: str(free_port()) for name in names}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIXTOOLS_", "RAY_"))}
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            # --parent: the service ends when this process ends, even if this process is killed.
            [Path(sys.executable).with_name("pixtools"), "up", "--parent", str(os.getpid())],
            env=inherited
            | ports
            | ({} if limit_clients else _ONE_CLIENT)
            | _RECEIVERS_HERE
            | {"PIXTOOLS_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(log.open("ab")) if log else sys.stderr,
            stderr=subprocess.STDOUT,
        )
        stack.callback(stop, process)
        url = f"http://127.0.0.1:{ports['PIXTOOLS_PORT']}"
        wait_until_answers(f"{url}/api/readyz", process, _START_TIMEOUT_S)
        yield RunningService(url, home, psutil.Process(process.pid), time.monotonic() - started)


def wait_until_answers(url: str, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until `url` answers with status 200. Raises RuntimeError if the process ends, or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer; the exit code of its server is {process.poll()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server. If it does not end in a minute, kill it. If a launcher is killed, its servers end too."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
