"""Hands an open file from the parent to a sandboxed process, so that neither has to hold its content in memory."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import IO, Any

_BUFFER_BYTES = 65_536


@contextmanager
def reopened(file: IO[bytes]) -> Iterator[int]:
    """Open a file again, only for reading, and yield the descriptor. Its position is 0.

    A copy of the descriptor of `file` would share its position and the right to write. Raises OSError if the content
    cannot be written to disk, for example because the disk is full. Raises ValueError if the file is closed.
    """
    number = file.fileno()  # writes a small temporary file to disk, which was in memory only
    file.flush()
    descriptor = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        file.fileno()  # raises ValueError if another thread has closed the file: then the number is another file's
        yield descriptor
    finally:
        os.close(descriptor)


def send(connection: Connection[Any, Any], descriptor: int) -> None:
    """Send an open file. Raises OSError if the other process has closed the connection."""
    with _socket(connection) as link:
        socket.send_fds(link, [b"f"], [descriptor])


def receive(connection: Connection[Any, Any]) -> IO[bytes]:
    """Return the file that the parent has sent. The caller closes it. Raises EOFError if the parent has ended."""
    with _socket(connection) as link:
        _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    if not descriptors:
        raise EOFError("the parent has ended")
    return io.BufferedReader(io.FileIO(descriptors[0]), _BUFFER_BYTES)


@contextmanager
def _socket(connection: Connection[Any, Any]) -> Iterator[socket.socket]:
    # Family, type and protocol are given, because the sandbox does not allow asking for them.
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=connection.fileno())
    try:
        yield link
    finally:
        link.detach()  # the connection stays open
