"""A Ray head of one machine: it and its dashboard listen on loopback only and ask for a token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pixtools.local import processes
from pixtools.local.cluster import Cluster
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port
from pixtools.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pixtools.local.home import Home

# Ray puts sockets some 65 characters below its folder, and the kernel allows 107 in all.
_LONGEST_TEMP = 40

_TO_CONNECT = 30.0


def start(home: Home, dashboard_port: int, client_port: int, env: Mapping[str, str]) -> Server:
    """Start a head whose every actor inherits `env`."""
    token = home.secret("ray-token")
    temp = folder(home)
    _empty(temp)
    process = processes.start(
        "ray",
        [
            *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={temp}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"),
            f"--ray-client-server-port={client_port}",
            # Ports of the system's choice: fixed ranges would meet those of the user and of other clusters.
            *("--min-worker-port=0", "--max-worker-port=0"),
            *("--metrics-export-port=0", "--dashboard-agent-listen-port=0"),
        ],
        home=home.path,
        log=home.logs / "ray.log",
        env={
            **{name: value for name, value in env.items() if name not in {"RAY_ADDRESS", "RAY_AUTH_TOKEN"}},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(home.secret_path("ray-token")),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it listens on every interface
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing to move away to: else it waits 30 s
        },
    )
    cluster = Cluster(f"http://127.0.0.1:{dashboard_port}", token)
    return Server(cluster.dashboard_url, {}, process, cluster.answers)


def drain(home: Home, patience: float) -> None:
    """Have the dispatchers on the head of `home` finish or hand back their jobs; give up soon after `patience`."""
    address = folder(home) / "ray_current_cluster"
    if not address.exists():  # somebody cleaned up where it lies: then the jobs are handed back as they are
        return
    process = processes.start(
        "drain",
        [Path(sys.executable).with_name("pixtools"), "drain", "--patience", str(patience)],
        home=home.path,
        log=home.logs / "drain.log",
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"},
            "RAY_ADDRESS": address.read_text(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(home.secret_path("ray-token")),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        },
    )
    with suppress(subprocess.TimeoutExpired):
        process.popen.wait(patience + _TO_CONNECT)
    process.stop()


def forget(home: Home) -> None:
    """Remove what a head that has stopped leaves behind: its logs, which nobody asks for after a clean stop."""
    shutil.rmtree(folder(home), ignore_errors=True)


def logs(home: Home) -> Path:
    return folder(home) / "session_latest" / "logs"


def folder(home: Home) -> Path:
    """Return Ray's folder, which is made anew by every start: all that lasts is elsewhere."""
    base = Path(tempfile.gettempdir())
    name = f"pixtools-{home.digest}"
    return (base if len(str(base / name)) <= _LONGEST_TEMP else Path("/tmp")) / name  # noqa: S108 (0700, ours)


def _empty(temp: Path) -> None:
    """Make the folder anew. Its name can be guessed, so another user may have put something there first."""
    shutil.rmtree(temp, ignore_errors=True)
    try:
        temp.mkdir(mode=0o700)
    except FileExistsError as error:
        raise LocalError(f"{temp} is not ours: remove it, or point TMPDIR elsewhere") from error
