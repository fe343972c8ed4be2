"""The entry point of a sandboxed process: `pixtools.sandbox.child SOCKET MODULE:FUNCTION MEMORY PARENT FORMAT`.

`process.py` starts it. FUNCTION imports and loads everything that the work needs, and returns a second function. Then
this process is confined, and the second function is called with the connection to the parent.
"""

from __future__ import annotations

import sys
from importlib import import_module
from multiprocessing.connection import Connection

from pixtools import logs
from pixtools.sandbox import confinement


def main(socket: str, function: str, memory_bytes: str, parent: str, log_format: logs.LogFormat) -> None:
    """Prepare the work, confine this process, tell the parent that it is ready, and work."""
    logs.to_stderr(log_format)
    connection = Connection(int(socket))
    module, name = function.split(":")
    work = getattr(import_module(module), name)()
    confinement.confine(int(memory_bytes), int(parent))
    connection.send_bytes(b"ready")
    work(connection)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
