"""Chooses where to deploy the application: on a new Ray head, or on an existing cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pixtools.local import cluster, deployment, ray_head
from pixtools.local.cluster import Cluster
from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings
    from pixtools.local.server import Server


@dataclass(frozen=True)
class Target:
    """A cluster, and the Serve configuration to deploy on this cluster."""

    cluster: Cluster
    serve_config: dict[str, Any]
    page_url: str
    head: Server | None  # None: `pixtools up` neither starts nor stops this cluster


def start_head(home: Home, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]) -> Target:
    """Start a Ray head. Its actors inherit our environment and `env`."""
    head = ray_head.start(home, settings.dashboard_port, settings.ray_client_port, os.environ | env)
    config = deployment.listening_on(serve_config, settings.host, settings.port)
    return Target(Cluster(head.url, home.secret("ray-token")), config, settings.page_url, head)


def use_cluster(
    ray_address: str, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]
) -> Target:
    """Use the existing cluster at `ray_address`. Add `env` to the Serve configuration.

    This is necessary because the processes of the cluster do not inherit our environment. Raises LocalError if the
    cluster does not accept our token, or if the cluster cannot reach servers that `pixtools up` starts.
    """
    existing = cluster.at(ray_address, settings.dashboard_port)
    missing = [
        name
        for name in ("PIXTOOLS_DATABASE_URL", "PIXTOOLS_REDIS_URL", "PIXTOOLS_S3_ENDPOINT_URL")
        if not os.environ.get(name)
    ]
    if missing and not existing.is_on_this_machine:
        raise LocalError(
            f"The cluster at RAY_ADDRESS={ray_address} cannot reach servers that are started on this machine: "
            f"set {', '.join(missing)} to the URLs of servers that the cluster can reach"
        )
    if not existing.answers():
        raise LocalError(
            f"At {existing.dashboard_url}, no Ray dashboard answers, or the dashboard refuses the token. Set "
            "PIXTOOLS_DASHBOARD_PORT to the port of the dashboard, or set RAY_ADDRESS to its address as "
            "http://host:port. Set RAY_AUTH_TOKEN to its token"
        )
    # Keep the address from the Serve configuration, unless the user has set an address. Our default address 127.0.0.1
    # would be wrong for a cluster with several machines.
    if {"host", "port"} & settings.model_fields_set:
        serve_config = deployment.listening_on(serve_config, settings.host, settings.port)
    page_url = deployment.page_url(serve_config, existing.host)
    return Target(existing, deployment.with_environment(serve_config, env), page_url, None)
