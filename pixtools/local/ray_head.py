"""Starts a Ray head on this machine. The head and its dashboard listen on loopback only and require a token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pixtools.local import haproxy, processes
from pixtools.local.cluster import Cluster
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port
from pixtools.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings

# Ray keeps sockets at paths that are some 65 characters longer than the path of its folder, and HAProxy at paths that
# are up to 73 characters longer. The kernel allows 107 characters for the path of a socket.
_MAX_FOLDER_LENGTH = 34

_CONNECT_TIMEOUT_S = 30.0  # longest time for `pixtools drain` to start and to connect to the cluster

# How often Ray does its periodic work, and how much it remembers. With the intervals that Ray chooses, this work is
# half of the CPU time that the service takes at rest. A variable of the environment has priority.
_SELDOM = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4",  # the start takes several turns of this loop
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_event_stats": "0",
    "RAY_event_stats_print_interval_ms": "0",
    "RAY_kill_idle_workers_interval_ms": "1000",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_report_worker_backlog_interval_ms": "1000",
    "RAY_task_events_report_interval_ms": "5000",
    "RAY_task_events_max_num_task_in_gcs": "10000",  # finished calls; each takes some 2 kB
    # The dashboard and its agent
    "EVENT_AGENT_REPORT_INTERVAL_SECONDS": "2",
    "METRICS_RECORD_INTERVAL_S": "15",
    "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "1",
    "LOG_NAME_UPDATE_INTERVAL_S": "2",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "1",  # with more files, the log monitor looks for new ones less often
}

_VITAL = {"gcs_server", "raylet"}

# Serve's proxy calls this function, which installs the checks of HTTP requests.
PROXY_CALLBACK = "serve.proxy:middlewares"


def start(home: Home, settings: LocalSettings, env: Mapping[str, str]) -> Server:
    """Start a Ray head. All its actors inherit `env`.

    Raises LocalError if a folder in the way belongs to another user, or if HAProxy is missing.
    """
    token = home.secret("ray-token")
    temp = folder(home)
    _keep_logs(home)
    _recreate(temp)
    proxy = haproxy.OFF
    if settings.proxy == "haproxy":
        _recreate(_haproxy_folder(home))
        proxy = haproxy.environment(home, _haproxy_folder(home), settings)
    process = processes.start(
        "ray",
        [
            *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"),
            "--no-monitor",  # without the process that adds nodes, because this cluster has one node
            *("--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={temp}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={settings.dashboard_port}"),
            f"--ray-client-server-port={settings.ray_client_port}",
            # With 0, the system chooses these ports. Fixed ports could be in use by other programs or other clusters.
            *("--min-worker-port=0", "--max-worker-port=0"),
            *("--metrics-export-port=0", "--dashboard-agent-listen-port=0"),
        ],
        home=home.path,
        log=home.logs / "ray.log",
        env={
            **_SELDOM,
            **{name: value for name, value in env.items() if name not in {"RAY_ADDRESS", "RAY_AUTH_TOKEN"}},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(home.secret_path("ray-token")),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # because with 1, Ray would listen on every interface
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PROXY_CALLBACK,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # by default Ray waits 30 s for tasks to move to other nodes
            **proxy,
        },
    )
    cluster = Cluster(f"http://127.0.0.1:{settings.dashboard_port}", token)
    vitals = _Vitals(process.popen.pid, logs(home))
    return Server(cluster.dashboard_url, {}, process, cluster.answers, broken=vitals.missing)


class _Vitals:
    """The processes without which a Ray node does not work.

    `ray start --block` ends if one of them fails. But if an agent of the raylet dies, the raylet ends with exit code 0,
    and `ray start --block` stays.
    """

    def __init__(self, pid: int, logs: Path) -> None:
        """`pid` is the process of `ray start`."""
        self._pid = pid
        self._logs = logs
        self._found: dict[str, psutil.Process] = {}

    def missing(self) -> str | None:
        """Return which process has ended, with the last lines of its log, or None."""
        with suppress(psutil.NoSuchProcess):
            if not self._found:
                children = {child.name(): child for child in psutil.Process(self._pid).children()}
                if not children.keys() >= _VITAL:
                    return None  # the node still starts
                self._found = {name: children[name] for name in _VITAL}
        for name, process in self._found.items():
            if not processes.is_alive(process):
                return f"its {name} has ended. {processes.log_tail(self._logs / f'{name}.err')}"
        return None


def drain(home: Home, timeout: float) -> None:
    """Let the dispatchers on the head of `home` finish running jobs for up to `timeout` seconds.

    Jobs that are not finished in time return to the queue.
    """
    address = folder(home) / "ray_current_cluster"
    # A cleaner of temporary files may have removed this file. Then `pixtools up` returns the jobs to the queue later.
    if not address.exists():
        return
    process = processes.start(
        "drain",
        [Path(sys.executable).with_name("pixtools"), "drain", "--timeout", str(timeout)],
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
        process.popen.wait(timeout + _CONNECT_TIMEOUT_S)
    process.stop()


def remove_folder(home: Home) -> None:
    """Remove the folders of a stopped head. They contain only logs, which are useless after a clean stop."""
    shutil.rmtree(folder(home), ignore_errors=True)
    shutil.rmtree(_haproxy_folder(home), ignore_errors=True)


def _keep_logs(home: Home) -> None:
    """Move the logs of a head that did not stop cleanly into the home, because they may tell why."""
    if (last := logs(home)).exists():
        kept = home.logs / "ray-before"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(last.resolve(), kept)


def logs(home: Home) -> Path:
    """Return the folder of Ray's logs."""
    return folder(home) / "session_latest" / "logs"


def folder(home: Home) -> Path:
    """Return the path of Ray's folder. Every start creates the folder anew, so it may be among temporary files."""
    base = Path(tempfile.gettempdir())
    name = f"pixtools-{home.digest}"
    return (base if len(str(base / name)) <= _MAX_FOLDER_LENGTH else Path("/tmp")) / name  # noqa: S108 (mode 0700)


def _haproxy_folder(home: Home) -> Path:
    """Return the folder of HAProxy's sockets and logs. Ray lets every user write to its own folder, but not to this."""
    return folder(home).with_name(f"{folder(home).name}-h")


def _recreate(temp: Path) -> None:
    """Delete and create the folder. Raises LocalError if another user has already created something at this path."""
    shutil.rmtree(temp, ignore_errors=True)
    try:
        temp.mkdir(mode=0o700)
    except FileExistsError as error:
        raise LocalError(f"{temp} belongs to another user: remove it, or set TMPDIR to another folder") from error
