"""Passes open files from the parent to a sandboxed process. So neither process holds the content in memory."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import IO, Any

_BUFFER_BYTES = 65_536


def reopen(file: IO[bytes]) -> int:
    """Open a file a second time, only for reading and at position 0. Return the descriptor. The caller closes it.

    A copy of the descriptor of `file` would share its position and the right to write. Raises OSError if the content
    cannot be written to disk, for example because the disk is full. Raises ValueError if `file` is closed.
    """
    number = file.fileno()  # a SpooledTemporaryFile now moves its content from memory to disk
    file.flush()
    descriptor = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Another thread may have closed `file`. Then its number may already belong to another file.
        file.fileno()
    except ValueError:
        os.close(descriptor)
        raise
    return descriptor


def send(connection: Connection[Any, Any], descriptor: int) -> None:
    """Send an open file. Raises OSError if the other process has closed the connection."""
    with _socket(connection) as link:
        socket.send_fds(link, [b"f"], [descriptor])


def receive(connection: Connection[Any, Any]) -> IO[bytes]:
    """Receive a file. The caller closes it.

    Raises EOFError if no file arrives: the parent has ended, or this process has too many open files.
    """
    with _socket(connection) as link:
        _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    if not descriptors:
        raise EOFError("no file has arrived")
    return io.BufferedReader(io.FileIO(descriptors[0]), _BUFFER_BYTES)


@contextmanager
def _socket(connection: Connection[Any, Any]) -> Iterator[socket.socket]:
    # Without these arguments, Python asks the kernel for the kind of the socket. The sandbox forbids this system call.
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=connection.fileno())
    try:
        yield link
    finally:
        link.detach()  # the connection stays open
