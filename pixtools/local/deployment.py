"""The Serve application: put on a cluster and awaited until it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pixtools.local.cluster import Cluster


_TO_SAY_WHY = 2  # Serve may report that a deployment failed before it reports why


def read(path: Path) -> dict[str, Any]:
    """Return the Serve configuration at `path`."""
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LocalError(f"Cannot read the Serve configuration {path}: {error}") from error
    return config


def listening_on(config: dict[str, Any], host: str, port: int) -> dict[str, Any]:
    return config | {"http_options": config.get("http_options", {}) | {"host": host, "port": port}}


def with_environment(config: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Give every application `env`, for a cluster that does not inherit ours."""
    applications = []
    for application in config["applications"]:
        runtime_env = application.get("runtime_env", {})
        env_vars = runtime_env.get("env_vars", {}) | env
        applications.append(application | {"runtime_env": runtime_env | {"env_vars": env_vars}})
    return config | {"applications": applications}


def page_url(config: dict[str, Any], host: str) -> str:
    """Return where `host` serves the page under this configuration."""
    return f"http://{host}:{config.get('http_options', {}).get('port', 8000)}"


def wait_until_running(cluster: Cluster, check: Callable[[], None], patience: float = 300) -> None:
    """Return when every application runs; `check` raises if a server has ended."""
    deadline = time.monotonic() + patience
    while not _all_run(cluster):
        check()
        if time.monotonic() > deadline:
            states = ", ".join(f"{name} is {app['status']}" for name, app in cluster.applications().items())
            raise LocalError(f"The service did not run within {patience:.0f} s: {states or 'not deployed'}")
        time.sleep(0.2)


def _all_run(cluster: Cluster) -> bool:
    applications = cluster.applications()
    if any(_failed(application) for application in applications.values()):
        time.sleep(_TO_SAY_WHY)
        raise LocalError("\n".join(_reasons(cluster.applications())))
    return bool(applications) and all(application["status"] == "RUNNING" for application in applications.values())


def _failed(application: dict[str, Any]) -> bool:
    return application["status"] in {"DEPLOY_FAILED", "UNHEALTHY"}


def _reasons(applications: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["The service could not be deployed:"]
    for name, application in applications.items():
        messages = [part["message"] for part in application["deployments"].values()]
        lines += [f"{name} is {application['status']}: {application['message']}", *messages]
    return lines


def missing(page: str) -> str | None:
    """Return what keeps the service from accepting jobs, if anything does."""
    try:
        answer = httpx.get(f"{page}/api/readyz", timeout=30, trust_env=False)
    except httpx.TransportError as error:
        return f"the page: {error or type(error).__name__}"
    if answer.is_success:
        return None
    if "problem" in answer.headers.get("content-type", ""):
        return str(answer.json()["detail"])
    return f"the page: status {answer.status_code}"
