"""Chooses where to deploy the application: on a new Ray head, or on an existing cluster."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pixtools import settings as service_settings
from pixtools.local import cluster, deployment, exposure, ray_head
from pixtools.local.addresses import is_loopback
from pixtools.local.cluster import Cluster
from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings
    from pixtools.local.server import Server

# A node that finds no secrets reports one of two errors: pydantic names missing fields, or our settings name a folder
# that the node cannot read.
_NO_SECRETS = re.compile(
    r"for Settings\s.*\b(database_url|redis_url)\s+Field required|PIXTOOLS_SECRETS_DIR=", re.DOTALL
)


@dataclass(frozen=True)
class Target:
    """A cluster, and the Serve configuration to deploy on this cluster."""

    cluster: Cluster
    serve_config: dict[str, Any]
    page_url: str
    head: Server | None  # None: `pixtools up` neither starts nor stops this cluster

    @property
    def page_is_reachable(self) -> bool:
        """Whether this machine reaches the page. False if the page listens on loopback of other machines."""
        return self.cluster.is_on_this_machine or not is_loopback(deployment.http_host(self.serve_config))

    def explained(self, failure: LocalError) -> LocalError:
        """Return the failure of a deployment. If the nodes did not find the secrets, the message says what to do."""
        if self.head is not None or not _NO_SECRETS.search(str(failure)):
            return failure
        names = ", ".join(sorted(service_settings.SECRETS))
        return LocalError(
            f"{failure}\n\nThe nodes of the cluster did not find the secrets. `pixtools up` does not send secrets to a "
            f"cluster, because everyone who sees the dashboard could read them. Set {names} in the environment of "
            "every node, or set PIXTOOLS_SECRETS_DIR there to a folder with one file for each of these variables. Then "
            "start the nodes again"
        )


def listening(serve_config: dict[str, Any], settings: LocalSettings) -> dict[str, Any]:
    """Return `serve_config` with the address of the page.

    On an existing cluster, the address in the Serve configuration counts, unless the user has set an address. Our
    default address 127.0.0.1 would be wrong for some clusters.
    """
    if settings.ray_address is None or {"host", "port"} & settings.model_fields_set:
        return deployment.listening_on(serve_config, settings.host, settings.port)
    return serve_config


def start_head(home: Home, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]) -> Target:
    """Start a Ray head. Its actors inherit our environment and `env`.

    Raises LocalError if the head cannot be started.
    """
    head = ray_head.start(home, settings, os.environ | env)
    if settings.proxy == "haproxy":
        # HAProxy listens on the address of the page. Ray's own ports behind it stay on loopback.
        serve_config = deployment.listening_on(serve_config, "127.0.0.1", settings.port)
    return Target(Cluster(head.url, home.secret("ray-token")), serve_config, settings.page_url, head)


def use_cluster(
    home: Home, ray_address: str, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]
) -> Target:
    """Use the existing cluster at `ray_address`. Add the settings in `env` to the Serve configuration.

    This is necessary because the processes of the cluster do not inherit our environment. Raises LocalError if the
    cluster does not require a token, does not accept our token, cannot reach servers that `pixtools up` starts, or
    lets everyone use the service.
    """
    existing = cluster.at(ray_address, settings.dashboard_port)
    _require_stores(existing, settings)
    _require_token(existing)
    exposure.check_running(existing, settings)
    env = _environment(home, existing, env)
    page_url = deployment.page_url(serve_config, existing.host)
    return Target(existing, deployment.with_environment(serve_config, env), page_url, None)


def _require_stores(existing: Cluster, settings: LocalSettings) -> None:
    missing = [
        f"PIXTOOLS_{name.upper()}"
        for name in ("database_url", "redis_url", "s3_endpoint_url")
        if getattr(settings, name) is None
    ]
    if missing and not existing.is_on_this_machine:
        raise LocalError(
            f"The cluster at {existing.dashboard_url} cannot reach servers that are started on this machine: "
            f"set {', '.join(missing)} to the URLs of servers that the cluster can reach"
        )


def _require_token(existing: Cluster) -> None:
    if existing.token is None:
        raise LocalError(
            f"There is no token for the cluster at {existing.dashboard_url}. On a cluster without token "
            "authentication, everyone who reaches it can run programs. Create a token with `ray get-auth-token "
            "--generate`, and start every node with this token and RAY_AUTH_MODE=token. Then set RAY_AUTH_TOKEN to the "
            "token, or RAY_AUTH_TOKEN_PATH to its file"
        )
    if not existing.answers():
        raise LocalError(
            f"At {existing.dashboard_url}, no Ray dashboard answers, or the dashboard refuses the token. Set "
            "PIXTOOLS_DASHBOARD_PORT to the port of the dashboard, or set RAY_ADDRESS to its address as "
            "http://host:port. Set RAY_AUTH_TOKEN to its token"
        )
    if not existing.requires_token():
        raise LocalError(
            f"The cluster at {existing.dashboard_url} does not require a token, so everyone who reaches it can run "
            "programs and read the data of PixTools. Start every node with RAY_AUTH_MODE=token and with the token that "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH contains"
        )


def _environment(home: Home, existing: Cluster, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the Serve configuration, without secrets: everyone can read them in the dashboard.

    Nodes on this machine read the secrets from files in the home. Other nodes must have the secrets already.
    """
    public = {name: env[name] for name in service_settings.VARIABLES - service_settings.SECRETS if name in env}
    if not existing.is_on_this_machine:
        return public
    secrets = {name: env[name] for name in service_settings.SECRETS if env.get(name)}
    files = service_settings.files_in_secrets_dir() | secrets
    # A variable in the environment of a node would win over its file. An empty variable counts as not set.
    return dict.fromkeys(files, "") | public | {"PIXTOOLS_SECRETS_DIR": str(home.write_node_secrets(files))}
