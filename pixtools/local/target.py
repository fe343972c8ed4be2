"""Where the application is deployed: on a head that we start, or on a cluster that is there already."""

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
    cluster: Cluster
    serve_config: dict[str, Any]
    page_url: str
    head: Server | None  # None: not ours to start and stop


def own(home: Home, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]) -> Target:
    """Start a head of our own, whose actors inherit `env`."""
    head = ray_head.start(home, settings.dashboard_port, settings.ray_client_port, os.environ | env)
    config = deployment.listening_on(serve_config, settings.host, settings.port)
    return Target(Cluster(head.url, home.secret("ray-token")), config, settings.page_url, head)


def foreign(ray_address: str, settings: LocalSettings, serve_config: dict[str, Any], env: Mapping[str, str]) -> Target:
    """Use the cluster at `ray_address`, which takes `env` with the application, as it inherits nothing."""
    there = cluster.at(ray_address, settings.dashboard_port)
    missing = [
        name
        for name in ("PIXTOOLS_DATABASE_URL", "PIXTOOLS_REDIS_URL", "PIXTOOLS_S3_ENDPOINT_URL")
        if not os.environ.get(name)
    ]
    if missing and not there.is_here:
        raise LocalError(
            f"The cluster at RAY_ADDRESS={ray_address} cannot reach servers that are started here: "
            f"set {', '.join(missing)} to ones that it reaches"
        )
    if not there.answers():
        raise LocalError(
            f"No Ray dashboard at {there.dashboard_url} takes our token. Give its port with "
            "PIXTOOLS_DASHBOARD_PORT, or its address as RAY_ADDRESS=http://host:port, and the token as "
            "RAY_AUTH_TOKEN"
        )
    # Its proxies listen where the file says, unless we are told otherwise: 127.0.0.1 is right for us alone.
    if {"host", "port"} & settings.model_fields_set:
        serve_config = deployment.listening_on(serve_config, settings.host, settings.port)
    page_url = deployment.page_url(serve_config, there.host)
    return Target(there, deployment.with_environment(serve_config, env), page_url, None)
