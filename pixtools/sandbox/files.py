"""Hands an open file from the parent to a sandboxed process, so that neither has to hold its content in memory."""

from __future__ import annotations

import io
import os
import socket
from multiprocessing.connection import Connection
from typing import IO, Any

_BUFFER_BYTES = 65_536


def send(connection: Connection[Any, Any], file: IO[bytes]) -> None:
    """Send a file that has a descriptor. The other process may only read it, and its position starts at 0.

    Raises OSError if the file cannot be written to disk, or if the other process has closed the connection.
    """
    file.flush()
    # The same file opened again: a copy of the descriptor would share the position and the right to write.
    descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as link:
            socket.send_fds(link, [b"f"], [descriptor])
    finally:
        os.close(descriptor)


def receive(connection: Connection[Any, Any]) -> IO[bytes]:
    """Return the file that the parent has sent. The caller closes it. Raises EOFError if the parent has ended."""
    # Family, type and protocol are given, because the sandbox does not allow asking for them.
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=connection.fileno())
    try:
        _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    finally:
        link.detach()
    if not descriptors:
        raise EOFError("the parent has ended")
    return io.BufferedReader(io.FileIO(descriptors[0]), _BUFFER_BYTES)
