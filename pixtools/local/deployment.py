"""Reads the configuration of the Serve application, and waits until the application runs on a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from pixtools.local.addresses import in_url
from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pixtools.local.cluster import Cluster


_REASON_DELAY_S = 2  # because Serve may report the failure first, and the reason a moment later


def read(path: Path) -> dict[str, Any]:
    """Read the Serve configuration at `path`. Raises LocalError if the file cannot be read."""
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LocalError(f"Cannot read the Serve configuration {path}: {error}") from error
    return config


def listening_on(config: dict[str, Any], host: str, port: int) -> dict[str, Any]:
    """Return `config` with `host` and `port` as the address of Serve's HTTP proxy."""
    return config | {"http_options": (config.get("http_options") or {}) | {"host": host, "port": port}}


def http_host(config: dict[str, Any]) -> str:
    """Return the address of Serve's HTTP proxy in `config`. Without an address, Serve listens on every interface."""
    host: str = (config.get("http_options") or {}).get("host", "0.0.0.0")  # noqa: S104 (only compared)
    return host


def with_environment(config: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Return `config` with `env` added to every application.

    This is needed for a cluster that we did not start, because its processes do not inherit our environment.
    """
    applications = []
    for application in config["applications"]:
        runtime_env = application.get("runtime_env", {})
        env_vars = runtime_env.get("env_vars", {}) | env
        applications.append(application | {"runtime_env": runtime_env | {"env_vars": env_vars}})
    return config | {"applications": applications}


def page_url(config: dict[str, Any], host: str) -> str:
    """Return the URL of the page if Serve runs on `host` with this configuration."""
    return f"http://{in_url(host)}:{(config.get('http_options') or {}).get('port', 8000)}"


def wait_until_running(cluster: Cluster, check: Callable[[], None], timeout: float = 300) -> None:
    """Wait until every application runs, for up to `timeout` seconds.

    Meanwhile, call `check` repeatedly. It raises LocalError if a server has ended. This function also raises LocalError
    if an application fails, with the reason that Serve reports, or if an application does not run in time.
    """
    deadline = time.monotonic() + timeout
    while not _all_run(cluster):
        check()
        if time.monotonic() > deadline:
            states = ", ".join(f"{name} is {app['status']}" for name, app in cluster.applications().items())
            raise LocalError(f"The service did not run within {timeout:.0f} s: {states or 'not deployed'}")
        time.sleep(0.2)


def _all_run(cluster: Cluster) -> bool:
    applications = cluster.applications()
    if any(_failed(application) for application in applications.values()):
        time.sleep(_REASON_DELAY_S)
        raise LocalError("\n".join(_reasons(cluster.applications())))
    return bool(applications) and all(application["status"] == "RUNNING" for application in applications.values())


def _failed(application: dict[str, Any]) -> bool:
    return application["status"] in {"DEPLOY_FAILED", "UNHEALTHY"}


def _reasons(applications: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["The service could not be deployed:"]
    for name, application in applications.items():
        messages = [deployment["message"] for deployment in application["deployments"].values()]
        lines += [f"{name} is {application['status']}: {application['message']}", *messages]
    return lines


def obstacle(page: str) -> str | None:
    """Return None if the service at the URL `page` accepts jobs. Otherwise return the reason why it does not."""
    try:
        answer = httpx.get(f"{page}/api/readyz", timeout=30, trust_env=False)
    except httpx.TransportError as error:
        return f"the page: {error or type(error).__name__}"
    if answer.is_success:
        return None
    if "problem" in answer.headers.get("content-type", ""):
        return str(answer.json()["detail"])
    return f"the page: status {answer.status_code}"
