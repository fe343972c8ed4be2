"""A Ray cluster of several hosts that runs PixTools, as docs/cluster.md describes."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import yaml
from forwarder import forwarding
from network import Host, Network
from process_titles import title_of
from waits import wait_for

from pixtools.database import migrate
from pixtools.local import stores
from pixtools.local.home import Home

BIN = Path(sys.executable).parent
CONFIG = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())

_PORT, _DASHBOARD_PORT, _GCS_PORT = 8000, 8265, 6379
_OBJECT_STORE_BYTES = 300_000_000


class Nodes:
    """The head and the other nodes of a cluster, each on a host of its own."""

    def __init__(self, network: Network, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._network = network
        self.head = network.new_host()
        self.env = {**env, "PIXTOOLS_PUBLIC_HOSTS": self.head.address}
        self.base_url = f"http://{self.head.address}:{_PORT}"
        self._dashboard = f"http://{self.head.address}:{_DASHBOARD_PORT}"
        self.workers: list[Host] = []
        self.http = httpx.Client(headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"}, timeout=30)
        self.start_head()

    @property
    def env_of_commands(self) -> dict[str, str]:
        """The environment of a command on a host. Without the address, it may find the cluster of another test."""
        return {**self.env, "RAY_ADDRESS": f"{self.head.address}:{_GCS_PORT}"}

    def start_head(self) -> None:
        """Start Ray on the head, and wait until its dashboard answers.

        The GCS keeps its state in Redis, so a head that starts again knows the cluster.
        """
        options = [
            *("--head", f"--port={_GCS_PORT}", f"--dashboard-host={self.head.address}"),
            *(f"--temp-dir={self.folder}/ray", "--num-cpus=0", "--ray-client-server-port=20001"),
            f"--redis-password={urlsplit(self.env['PIXTOOLS_REDIS_URL']).password}",
        ]
        self._start_ray(self.head, *options)
        try:
            wait_for(lambda: len(self.alive()) >= 1, 120)
        except AssertionError as error:
            log = (self.folder / f"{self.head.name}.log").read_text()
            raise AssertionError(f"The head does not answer. The end of its log:\n{log[-3000:]}") from error

    def add(self, cpus: int = 1, **options: int) -> Host:
        """Connect a new host to the network and to the cluster. Return it when Ray uses it."""
        host = self._network.new_host()
        more = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._start_ray(host, f"--address={self.head.address}:{_GCS_PORT}", f"--num-cpus={cpus}", *more)
        wait_for(lambda: host.address in {node["node_ip"] for node in self.alive()}, 120)
        self.workers.append(host)
        return host

    def _start_ray(self, host: Host, *options: str) -> None:
        host.start(
            [
                *(BIN / "ray", "start", *options, f"--node-ip-address={host.address}"),
                *(f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats", "--block"),
            ],
            self.env,
            self.folder / f"{host.name}.log",
        )

    def deploy(self, env: Mapping[str, str] | None = None, config: dict[str, Any] = CONFIG) -> None:
        """Deploy PixTools with these variables, and wait until it accepts jobs."""
        config = config | {"http_options": {"host": "0.0.0.0", "port": _PORT}}
        config = copy.deepcopy(config)
        denoiser = config["applications"][1]["deployments"][0]
        denoiser["autoscaling_config"]["downscale_delay_s"] = 10  # so that it does not keep a CPU from converters
        options = denoiser["ray_actor_options"]
        if not options["num_gpus"]:
            options["num_cpus"] = 1  # otherwise the denoiser might run on the head
        config["applications"] = [
            application | {"runtime_env": {"env_vars": dict(env or {})}} for application in config["applications"]
        ]
        file = self.folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config))
        subprocess.run(
            [BIN / "serve", "deploy", "--address", self._dashboard, file],
            env=self.env, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        wait_for(self._is_running, 180)

    def _is_running(self) -> bool:
        applications = self.http.get(f"{self._dashboard}/api/serve/applications/").json()["applications"]
        return all(each["status"] == "RUNNING" for each in applications.values()) and self._answers()

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.base_url}/api/readyz", timeout=10).is_success
        return False

    def alive(self) -> list[dict[str, Any]]:
        """Return the nodes whose state in Ray is ALIVE."""
        return [node for node in self._list("nodes") if node["state"] == "ALIVE"]

    def actors(self, class_name: str) -> Counter[str]:
        """Return how many actors of a class run on each node, by the address of the node."""
        addresses = {node["node_id"]: node["node_ip"] for node in self._list("nodes")}
        found = [each for each in self._list("actors") if each["class_name"] == class_name]
        return Counter(addresses[each["node_id"]] for each in found if each["state"] == "ALIVE")

    def _list(self, kind: str) -> list[dict[str, Any]]:
        """Return a list of Ray's dashboard. Repeat the request while the dashboard does not answer."""
        found: list[list[dict[str, Any]]] = []

        def is_read() -> bool:
            with suppress(httpx.TransportError, KeyError, TypeError, ValueError):
                answer = self.http.get(f"{self._dashboard}/api/v0/{kind}", params={"limit": 10_000, "detail": 1})
                found.append(answer.json()["data"]["result"]["result"])
            return bool(found)

        wait_for(is_read, 120)
        return found[0]


def cpu_seconds(host: Host, title: str) -> float:
    """Return the CPU time of all processes on a host whose title begins with `title`, and of their children."""
    total = 0.0
    for pid in host.pids():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if title_of(process).startswith(title):
                total += sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])
    return total


@contextmanager
def running(workers: int, **settings: str) -> Iterator[Nodes]:
    """Run a cluster with a head and `workers` nodes with one CPU each. PixTools has these settings."""
    folder = Path(tempfile.mkdtemp(prefix="pxc"))
    folder.chmod(0o711)  # for Postgres, which root runs as another user
    try:
        with stores.running(Home(folder / "home")) as urls, Network(folder / "ray") as network:
            ports = [urlsplit(url).port for url in urls.values() if "://" in url]
            assert all(ports)
            with forwarding(network.address, *ports):
                migrate.upgrade(urls["PIXTOOLS_DATABASE_URL"])
                there = {name: url.replace("127.0.0.1", network.address) for name, url in urls.items()}
                env = {name: value for name, value in os.environ.items() if not name.startswith("PIXTOOLS_")}
                env |= there | settings | {
                    "PATH": f"{BIN}:{os.environ['PATH']}",
                    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                    "RAY_health_check_timeout_ms": "3000",  # as in deploy/aws/node.env
                    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middlewares",
                    "RAY_REDIS_ADDRESS": urlsplit(there["PIXTOOLS_REDIS_URL"]).netloc.rpartition("@")[2],
                }  # fmt: skip
                del env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
                nodes = Nodes(network, folder, env)
                for _ in range(workers):
                    nodes.add()
                nodes.deploy()
                yield nodes
                nodes.http.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
