"""`pixtools up` starts and stops a service. No process outlives the service, and wrong settings are refused.

These tests deploy a small application, because they only test how a service starts and stops.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import boto3
import grpc
import httpx
import psutil
import psycopg
import pytest
import redis
import yaml
from botocore.config import Config
from process_titles import title_of

from pixtools.local import processes
from pixtools.local.addresses import is_loopback
from pixtools.local.cluster import Cluster
from pixtools.local.home import Home
from pixtools.local.ports import free_port
from pixtools.settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service import Stack

    from pixtools.settings import Settings

APP = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Ready:
    async def __call__(self, request):
        return "ready"

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Broken:
    def __init__(self):
        raise RuntimeError("no such model")

@serve.deployment(ray_actor_options={"num_cpus": 0})
class WithStores:
    def __init__(self):
        from pixtools.blob_store import BlobStore
        from pixtools.database.connection import Database
        from pixtools.settings import Settings

        settings = Settings()
        Database(settings).ping()
        BlobStore(settings).ping()
        self.max_steps = settings.max_steps

    async def __call__(self, request):
        return str(self.max_steps)

ready = Ready.bind()
broken = Broken.bind()
with_stores = WithStores.bind()
"""
PIXTOOLS = Path(sys.executable).with_name("pixtools")
TOKEN = token_hex(24)


@pytest.fixture(scope="module")
def app_folder(open_folder: Path) -> Path:
    folder = open_folder / "app"
    folder.mkdir()
    (folder / "small_app.py").write_text(APP)
    for name in ("ready", "broken", "with_stores"):
        application = {"name": "pixtools", "route_prefix": "/", "import_path": f"small_app:{name}"}
        config = {"http_options": {"host": "0.0.0.0"}, "applications": [application]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def python_path(app_folder: Path) -> str:
    """Return the folders of the small application and of the code under test."""
    return os.pathsep.join([str(app_folder), str(Path(__file__).parents[2])])


@pytest.fixture
def small(new_stack: Callable[..., Stack], app_folder: Path) -> Stack:
    """A service that is not started yet. Ray can import the small application."""
    return new_stack(extra_env={"PYTHONPATH": python_path(app_folder)})


@pytest.fixture
def ready(app_folder: Path) -> Path:
    return app_folder / "ready.yaml"


@pytest.fixture
def running(small: Stack, ready: Path) -> Stack:
    small.launch("--config", ready)
    small.wait_until_ready()
    return small


@pytest.fixture
def cluster(open_folder: Path, app_folder: Path) -> Iterator[Callable[..., str]]:
    """A function that starts a Ray cluster which does not belong to `pixtools up`. It returns the RAY_ADDRESS.

    The environment of the cluster contains no PIXTOOLS_* variables.
    """
    home = Home(open_folder / f"cluster-{time.monotonic_ns()}")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short, because Ray keeps sockets in it
    started = []

    def start(host: str = "127.0.0.1", auth: str = "token") -> str:
        port = free_port()
        started.append(
            processes.start(
                "cluster",
                [
                    *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"),
                    *("--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={folder}"),
                    *(
                        f"--dashboard-host={host}",
                        f"--dashboard-port={port}",
                        f"--ray-client-server-port={free_port()}",
                    ),
                    *("--min-worker-port=0", "--max-worker-port=0"),
                    *("--metrics-export-port=0", "--dashboard-agent-listen-port=0"),
                ],
                home=home.path,
                log=home.logs / "cluster.log",
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(home.path),
                    "PYTHONPATH": python_path(app_folder),
                    "RAY_AUTH_MODE": auth,
                    "RAY_AUTH_TOKEN": TOKEN,
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                },
            )
        )
        address = f"http://{host}:{port}"
        deadline = time.monotonic() + 120
        while not Cluster(address, TOKEN).answers():
            started[-1].check()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return address

    yield start
    for process in started:
        process.stop()
    processes.end_leftovers(home.path, folder)
    shutil.rmtree(folder)


def worker_of(supervisor: int) -> psutil.Process:
    """Return the worker. The supervisor forks the worker, and the worker starts the servers."""
    (worker,) = psutil.Process(supervisor).children()
    return worker


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_nothing_left(stack: Stack) -> None:
    stack.wait_until_gone()
    assert [port for port in stack.ports if is_open(port)] == []


def listening_at(process: psutil.Process) -> set[tuple[str, int]]:
    """Return the addresses at which a process listens. A process that has ended has none."""
    try:
        return {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    except psutil.NoSuchProcess:
        return set()


def test_a_running_service_is_closed_to_others(running: Stack, ready: Path) -> None:
    """A service listens on loopback, shows no secret, requires its token and refuses a second launcher.

    There is one exception: a port of Ray is open on all interfaces.
    """
    listening: set[tuple[str, int]] = set()
    deadline = time.monotonic() + 20
    # Soon after the start, a new HAProxy takes over the port of the first one.
    while not {port for _, port in listening} >= set(running.ports):
        assert time.monotonic() < deadline, f"{running.ports} are not all among {listening}"
        family = psutil.Process(running.process.pid).children(recursive=True)
        listening = {address for process in family for address in listening_at(process)}
    public = [port for ip, port in listening if ip not in {"127.0.0.1", "::ffff:127.0.0.1"}]
    # Ray opens a port for each replica on every interface. No setting prevents this. But the port requires the token.
    assert len(public) == 1
    with grpc.insecure_channel(f"127.0.0.1:{public[0]}") as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED

    secrets = [path.read_text() for path in (running.home / "secrets").iterdir()]
    commands = "\n".join(title_of(process) for process in family)
    assert [secret for secret in secrets if secret in commands or secret in running.output] == []
    assert {path.stat().st_mode & 0o777 for path in (running.home / "secrets").iterdir()} == {0o600}

    assert httpx.get(f"{running.dashboard_url}/api/version").status_code == 401
    answer = httpx.get(f"{running.dashboard_url}/api/version", headers={"Authorization": f"Bearer {running.token}"})
    assert answer.status_code == 200

    second = subprocess.run(
        [PIXTOOLS, "up", "--config", ready],
        check=False,
        env=running.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"already running (pid {running.process.pid}, page at {running.base_url})" in second.stderr

    assert running.stop() == 0
    assert running.output.endswith("PixTools has stopped.\n")
    assert_nothing_left(running)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_launcher(running: Stack, signum: signal.Signals) -> None:
    running.process.send_signal(signum)
    assert running.process.wait(60) == (0 if signum is signal.SIGTERM else -signum)
    assert_nothing_left(running)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, 128 + signal.SIGKILL)]
)
def test_nothing_outlives_the_worker(running: Stack, signum: signal.Signals, code: int) -> None:
    worker_of(running.process.pid).send_signal(signum)
    assert running.process.wait(60) == code
    assert_nothing_left(running)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_make(small: Stack, ready: Path, app_folder: Path, signum: signal.Signals) -> None:
    """Only make gets the signal. Ctrl-C in a terminal would also send the signal to `pixtools up`."""
    makefile = app_folder / "Makefile"
    makefile.write_text(f"run:\n\t@exec {PIXTOOLS} up --config {ready} --parent $$PPID\n")
    small.run("make", "-f", makefile)
    small.wait_until_ready()
    small.process.send_signal(signum)
    assert small.process.wait(60) == -signum
    assert_nothing_left(small)


def test_it_outlives_the_shell_that_put_it_in_the_background(small: Stack, ready: Path) -> None:
    small.run("/bin/sh", "-c", f"nohup {PIXTOOLS} up --config {ready} & echo $! > {small.home}.pid; sleep 1")
    assert small.process.wait(60) == 0
    supervisor = psutil.Process(int(Path(f"{small.home}.pid").read_text()))
    deadline = time.monotonic() + 120
    while "Ctrl-C stops it." not in small.output:
        assert supervisor.is_running(), small.output
        assert time.monotonic() < deadline
        time.sleep(0.1)
    supervisor.terminate()
    assert_nothing_left(small)


def test_a_second_ctrl_c_ends_it_at_once(running: Stack) -> None:
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(5) in {0, 130}
    assert_nothing_left(running)


def test_data_survive_a_stop_and_a_crash(running: Stack, ready: Path) -> None:
    write(running.env)
    assert running.stop() == 0

    running.launch("--config", ready)
    running.wait_until_ready()
    assert_written(running.env)
    running.kill()
    running.process.wait(60)

    running.launch("--config", ready)
    running.wait_until_ready()
    assert_written(running.env)
    # If the supervisor and the worker are killed together, the kernel signals the servers, and the next start ends the
    # remaining processes.
    worker = worker_of(running.process.pid)
    running.process.kill()
    worker.kill()
    running.process.wait(60)

    running.launch("--config", ready)
    running.wait_until_ready()
    assert_written(running.env)
    assert running.stop() == 0
    assert_nothing_left(running)


def test_taken_ports_are_named_before_anything_starts(small: Stack, ready: Path) -> None:
    with socket.create_server(("127.0.0.1", small.port)), socket.create_server(("127.0.0.1", small.s3_port)):
        small.launch("--config", ready)
        assert small.process.wait(60) == 1
    assert f"127.0.0.1:{small.port} for the page and the API" in small.output
    assert "another port with PIXTOOLS_PORT" in small.output
    assert f"127.0.0.1:{small.s3_port} for pictures" in small.output
    assert "another port with PIXTOOLS_S3_PORT" in small.output
    assert "PIXTOOLS_DASHBOARD_PORT" not in small.output
    assert not (small.home / "postgres").exists()


def test_a_server_that_ends_is_named_and_started_again(running: Stack) -> None:
    (rclone,) = [process for process in running.processes() if process.name() == "rclone"]
    rclone.kill()
    deadline = time.monotonic() + 60
    while "s3 works again" not in running.output:
        assert time.monotonic() < deadline, running.output
        time.sleep(0.1)
    assert "s3 ended by itself (code -9)" in running.output
    assert running.stop() == 0
    assert_nothing_left(running)


def test_the_reason_of_a_failed_deployment_is_printed(small: Stack, app_folder: Path) -> None:
    small.launch("--config", app_folder / "broken.yaml")
    assert small.process.wait(120) == 1
    assert "no such model" in small.output
    assert_nothing_left(small)


def test_wrong_settings_are_explained_without_a_traceback(small: Stack, ready: Path) -> None:
    small.extra_env["PIXTOOLS_HOST"] = ""
    small.dashboard_port = small.port
    small.launch("--config", ready)
    assert small.process.wait(60) == 1
    assert "is set more than once" in small.output
    assert "Traceback" not in small.output


def test_a_host_that_others_reach_is_refused_before_anything_starts(small: Stack, ready: Path) -> None:
    small.extra_env["PIXTOOLS_HOST"] = "0.0.0.0"
    small.launch("--config", ready)
    assert small.process.wait(60) == 1
    assert "PIXTOOLS_HOST=0.0.0.0 lets everyone who reaches this address use the service" in small.output
    assert "PIXTOOLS_ALLOW_ANONYMOUS=1" in small.output
    assert not small.home.exists()


def test_an_existing_cluster_reads_the_secrets_from_files_and_its_dashboard_shows_none(
    small: Stack, cluster: Callable[..., str], app_folder: Path
) -> None:
    address = cluster()
    small.extra_env |= {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": TOKEN, "PIXTOOLS_MAX_STEPS": "7"}
    small.launch("--config", app_folder / "with_stores.yaml")
    small.wait_until_ready()

    assert httpx.get(small.base_url).text == "7"
    shown = httpx.get(f"{address}/api/serve/applications/", headers={"Authorization": f"Bearer {TOKEN}"}).text
    folder = small.home / "node-secrets"
    assert f'"PIXTOOLS_SECRETS_DIR": "{folder}"' in shown
    passwords = [path.read_text() for place in ("secrets", "node-secrets") for path in (small.home / place).iterdir()]
    assert len(passwords) == 10
    assert [password for password in passwords if password in shown or password in small.output] == []
    assert small.stop() == 0


def test_a_cluster_that_requires_no_token_is_refused(small: Stack, cluster: Callable[..., str], ready: Path) -> None:
    small.extra_env |= {"RAY_ADDRESS": cluster(auth="disabled"), "RAY_AUTH_TOKEN": TOKEN}
    small.launch("--config", ready)
    assert small.process.wait(180) == 1
    assert "does not require a token, so everyone who reaches it can run programs" in small.output
    assert_nothing_left(small)


def test_a_cluster_whose_nodes_have_no_secrets_is_told_how_to_get_them(
    small: Stack, cluster: Callable[..., str], app_folder: Path, settings: Settings
) -> None:
    """The nodes count as other machines, because the address of their dashboard is not a loopback address."""
    address = next((a.address for n in psutil.net_if_addrs().values() for a in n if is_of_network(a)), None)
    if address is None:
        pytest.skip("this machine has no address except loopback")
    small.extra_env |= {
        "RAY_ADDRESS": cluster(host=address),
        "RAY_AUTH_TOKEN": TOKEN,
        "PIXTOOLS_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "PIXTOOLS_WEBHOOK_KEYS": "k" * 32,
        **{
            name: value.get_secret_value()
            for name in SECRETS
            if (value := getattr(settings, name.removeprefix("PIXTOOLS_").lower())) is not None
        },
    }
    small.launch("--config", app_folder / "with_stores.yaml")
    assert small.process.wait(300) == 1
    assert "The nodes of the cluster did not find the secrets." in small.output
    assert "PIXTOOLS_SECRETS_DIR" in small.output
    assert settings.database_url.get_secret_value() not in small.output


def is_of_network(address) -> bool:
    return address.family == socket.AF_INET and not is_loopback(address.address)


def write(env: dict[str, str]) -> None:
    with psycopg.connect(env["PIXTOOLS_DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'in postgres' AS place")
    with redis.Redis.from_url(env["PIXTOOLS_REDIS_URL"]) as client:
        client.set("kept", "in redis")
        client.waitaof(1, 0, 5000)
    bucket(env).put_object(Key="kept", Body=b"in s3")


def assert_written(env: dict[str, str]) -> None:
    with psycopg.connect(env["PIXTOOLS_DATABASE_URL"]) as connection:
        assert connection.execute("SELECT place FROM kept").fetchall() == [("in postgres",)]
    with redis.Redis.from_url(env["PIXTOOLS_REDIS_URL"]) as client:
        assert client.get("kept") == b"in redis"
    assert bucket(env).Object("kept").get()["Body"].read() == b"in s3"


def bucket(env: dict[str, str]):
    s3 = boto3.resource(
        "s3",
        endpoint_url=env["PIXTOOLS_S3_ENDPOINT_URL"],
        aws_access_key_id=env["PIXTOOLS_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=env["PIXTOOLS_S3_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )
    return s3.Bucket(env["PIXTOOLS_S3_BUCKET"])
