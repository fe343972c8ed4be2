"""Finds processes of the service: by the titles that Ray gives them, or by their connections to Postgres."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from process_titles import title_of

CONVERTER = "ray::ConverterActor.run"  # a converter that runs a segment
DISPATCHER = "ray::Dispatcher"
SWEEPER = "ray::Sweeper"
COURIER = "ray::Courier"
INGRESS = "ray::ServeReplica:pixtools:ingress"
DENOISER = "ray::ServeReplica:denoiser:Denoiser"


def find(stack, title: str, timeout: float = 30) -> list[psutil.Process]:
    """Return the processes whose title begins with `title`. Wait for the first one for up to `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := [process for process in _descendants(stack) if title_of(process).startswith(title)]):
        assert time.monotonic() < deadline, f"no process {title}"
        time.sleep(0.02)
    return found


def raylet(stack) -> psutil.Process:
    """Return the raylet of the service."""
    (found,) = (process for process in _descendants(stack) if title_of(process).split(" ")[0].endswith("/raylet"))
    return found


def dispatcher_called(stack, audit, name: str) -> psutil.Process:
    """Return the dispatcher process that has connections to Postgres with this application name.

    Postgres lists the client ports of these connections.
    """
    ports = {
        row[0] for row in audit.query("SELECT client_port FROM pg_stat_activity WHERE application_name = %s", [name])
    }
    for process in find(stack, DISPATCHER):
        with suppress(psutil.NoSuchProcess):
            if ports.intersection(connection.laddr.port for connection in process.net_connections("tcp")):
                return process
    raise AssertionError(f"no dispatcher {name}")


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Suspend a process with SIGSTOP until the block ends."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _descendants(stack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)
