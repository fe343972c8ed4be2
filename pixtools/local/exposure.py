"""Checks who can reach the service. There are no API keys yet, so everyone who reaches the port can use the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixtools.local import deployment
from pixtools.local.addresses import is_loopback
from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from pixtools.local.cluster import Cluster
    from pixtools.local.local_settings import LocalSettings


def check(settings: LocalSettings, serve_config: dict[str, Any]) -> None:
    """Raise LocalError if PIXTOOLS_HOST or `serve_config` lets others use the service, and nobody has allowed this.

    Also raises LocalError if PIXTOOLS_HOST is an IPv6 address.
    """
    if "host" in settings.model_fields_set:
        _require_loopback(f"PIXTOOLS_HOST={settings.host}", settings.host, settings)
    host = deployment.http_host(serve_config)
    _require_loopback(f"The address {host} in http_options.host of the Serve configuration", host, settings)
    if ":" in settings.host:
        # A Content-Security-Policy cannot contain an IPv6 address, so browsers would not show the pictures from S3.
        raise LocalError(
            f"PIXTOOLS_HOST={settings.host} is an IPv6 address. Browsers would not load pictures from this address: "
            "use 127.0.0.1 or localhost instead"
        )


def check_running(cluster: Cluster, settings: LocalSettings) -> None:
    """Raise LocalError if Serve already runs on `cluster`, and its address lets others use the service.

    A deployment does not change the address of a Serve that runs.
    """
    host = cluster.http_host()
    if host is not None:
        _require_loopback(f"Ray Serve already runs on this cluster with the address {host}, which", host, settings)


def _require_loopback(subject: str, host: str, settings: LocalSettings) -> None:
    if is_loopback(host) or settings.allow_anonymous:
        return
    raise LocalError(
        f"{subject} lets everyone who reaches this address use the service: submit jobs, see the jobs of all users and "
        "download their pictures. There are no API keys yet. Use a loopback address such as 127.0.0.1, and let a "
        "reverse proxy on the same machine check who the users are. To allow everyone, set PIXTOOLS_ALLOW_ANONYMOUS=1"
    )
