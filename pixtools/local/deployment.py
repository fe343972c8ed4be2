"""The Serve application: put on a cluster and awaited until it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from pixtools.local.errors import LocalError

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


def wait_until_ready(cluster: Cluster, page: str, check: Callable[[], None], patience: float = 300) -> None:
    """Return when every application runs and the service is ready; `check` raises if a server has ended."""
    deadline = time.monotonic() + patience
    while not (_all_run(applications := cluster.applications(), cluster.applications) and _is_ready(page)):
        check()
        if time.monotonic() > deadline:
            states = ", ".join(f"{name} is {app['status']}" for name, app in applications.items())
            raise LocalError(f"The service was not ready within {patience:.0f} s: {states or 'not deployed'}")
        time.sleep(0.2)


def _all_run(applications: dict[str, dict[str, Any]], again: Callable[[], dict[str, dict[str, Any]]]) -> bool:
    for name, application in applications.items():
        if application["status"] in {"DEPLOY_FAILED", "UNHEALTHY"}:
            time.sleep(_TO_SAY_WHY)
            application = again().get(name, application)  # noqa: PLW2901
            messages = [part["message"] for part in application["deployments"].values()]
            raise LocalError(
                "\n".join([f"The application {name} could not be deployed:", application["message"], *messages])
            )
    return bool(applications) and all(app["status"] == "RUNNING" for app in applications.values())


def _is_ready(page: str) -> bool:
    try:
        return httpx.get(f"{page}/api/readyz", timeout=10, trust_env=False).is_success
    except httpx.TransportError:
        return False
