"""A client of the REST API of a Ray dashboard. It deploys the application and reads the state of the application."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pixtools.local.addresses import in_url, is_loopback
from pixtools.local.local_error import LocalError

_DEPLOY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, whether or not `pixtools up` started it."""

    dashboard_url: str
    token: str | None = field(repr=False)

    @property
    def host(self) -> str:
        """The host of the dashboard."""
        return urlsplit(self.dashboard_url).hostname or ""

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the dashboard has a loopback address."""
        return is_loopback(self.host)

    def answers(self) -> bool:
        """Return whether the dashboard answers and accepts the token."""
        try:
            return self._call("GET", "/api/version").is_success
        except httpx.TransportError:
            return False

    def requires_token(self) -> bool:
        """Return whether a running dashboard refuses a request without a token."""
        return not Cluster(self.dashboard_url, None).answers()

    def http_host(self) -> str | None:
        """Return the address of Serve, or None if Serve does not run, or runs with its own default.

        The default of a Serve that was started from Python is a loopback address.
        """
        try:
            response = self._call("GET", "/api/serve/applications/")
        except httpx.TransportError:
            return None
        options = (response.json().get("http_options") or {}) if response.is_success else {}
        host: str | None = options.get("host")
        return host

    def deploy(self, config: dict[str, Any]) -> None:
        """Send `config` to Ray Serve. This method starts the deployment but does not wait for its end.

        Raises LocalError if the dashboard refuses `config`, or does not answer or answers with a server error for 30 s.
        """
        deadline = time.monotonic() + _DEPLOY_TIMEOUT_S
        while (obstacle := self._obstacle(config)) is not None:
            if time.monotonic() > deadline:
                raise LocalError(obstacle)
            time.sleep(0.5)

    def _obstacle(self, config: dict[str, Any]) -> str | None:
        """Send `config`. Return why Ray cannot take it now, or None. Raises LocalError if Ray refuses it."""
        try:
            response = self._call("PUT", "/api/serve/applications/", json=config)
        except httpx.TransportError as error:
            return f"Ray's dashboard at {self.dashboard_url} does not answer: {error}"
        if response.is_success:
            return None
        refusal = f"Ray Serve refuses the deployment (status {response.status_code}): {response.text}"
        if response.is_server_error:  # while the dashboard starts, and its agent cannot be reached yet
            return refusal
        raise LocalError(refusal)

    def applications(self) -> dict[str, dict[str, Any]]:
        """Return what Serve reports about each application. The keys are the names of the applications.

        The result is empty while the dashboard does not answer.
        """
        try:
            response = self._call("GET", "/api/serve/applications/")
        except httpx.TransportError:
            return {}
        applications: dict[str, dict[str, Any]] = response.json()["applications"] if response.is_success else {}
        return applications

    def _call(self, method: str, path: str, json: dict[str, Any] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.request(method, self.dashboard_url + path, json=json, headers=headers, timeout=30, trust_env=False)


def at(ray_address: str, dashboard_port: int) -> Cluster:
    """Return the cluster at a `RAY_ADDRESS`.

    If the address begins with http:// or https://, it is the address of the dashboard. Otherwise the dashboard is at
    `dashboard_port` of the host in the address.
    """
    if ray_address.startswith(("http://", "https://")):
        return Cluster(ray_address.rstrip("/"), _token())
    host = urlsplit(ray_address if "://" in ray_address else f"//{ray_address}").hostname
    return Cluster(f"http://{in_url(host or '')}:{dashboard_port}", _token())


def _token() -> str | None:
    """Return the token of a cluster, or None. The function looks for the token in the places where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.exists() else None
