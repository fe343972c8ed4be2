"""Code that a hostile picture might run in a decoder. It looks for secrets and for ways out of its process."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

DECODING, READING = b"attack the decoder:", b"attack the reader of headers:"
"""If a file contains these bytes, tests/e2e/attacked/sitecustomize.py runs `loot` in the process that opens it."""


def loot(ports: list[int], files: list[str]) -> dict[str, str]:
    """Try everything. Return what worked: the name of each try, and what it gave."""
    parent = os.getppid()
    tries: dict[str, Callable[[], object]] = {
        "environment": lambda: [value for name, value in os.environ.items() if _is_secret(name)],
        "own environment": lambda: Path("/proc/self/environ").read_bytes(),
        "environment of the parent": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "memory of the parent": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
        "memory of the parent by a system call": lambda: _call("process_vm_readv", parent, 0, 0, 0, 0, 0),
        "signal to the parent": lambda: os.kill(parent, 0),
        "list of files": lambda: list(Path("/").iterdir()),
        "account file": lambda: Path("/etc/passwd").read_bytes(),
        "new file": _write_file,
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "process": _fork,
        "shared memory": lambda: mmap.mmap(-1, 4096),
        "socket": lambda: socket.socket(socket.AF_UNIX),
        **{f"file {path}": lambda path=path: Path(path).read_bytes() for path in files},
        **{f"port {port}": lambda port=port: socket.create_connection(("127.0.0.1", port), 2) for port in ports},
    }
    return {name: result for name, attempt in tries.items() if (result := _result(attempt))}


def _result(attempt: Callable[[], object]) -> str:
    try:
        result = attempt()
    except BaseException:  # noqa: BLE001 (every failure means that the try did not work)
        return ""
    return repr(result)[:80] if result != [] else ""


def _is_secret(name: str) -> bool:
    return name.startswith(("PIXTOOLS_", "RAY_", "AWS_")) or "SECRET" in name


def _call(name: str, *arguments: int) -> int:
    result = int(getattr(ctypes.CDLL(None), name)(*arguments))
    if result < 0:
        raise OSError(name)
    return result


def _write_file() -> str:
    path = Path(f"/tmp/pixtools-attacker-{os.getpid()}")
    path.touch(exist_ok=False)
    path.unlink()
    return "written"


def _fork() -> int:
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return child
