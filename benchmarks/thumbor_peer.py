"""The peer: thumbor converts the same pictures. thumbor answers in the same request and stores nothing.

`make bench` installs thumbor into an environment of its own, because it needs an older Pillow.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import httpx
import psutil
from cpu import family
from load import Call, Unexpected
from running_service import stop, wait_until_answers

from pixtools.local.ports import free_port

_START_TIMEOUT_S = 30
# The loader reads files, and nothing is kept, so thumbor only converts. This is its cheapest way of working.
_CONFIGURATION = """
ALLOW_UNSAFE_URL = True
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = {folder!r}
STORAGE = "thumbor.storages.no_storage"
RESULT_STORAGE = None
MAX_AGE = 0
"""


@dataclass(frozen=True)
class Thumbor:
    """A running thumbor with two processes."""

    url: str
    root: psutil.Process
    pictures: int

    def convert(self) -> Call:
        """Return a call that converts the next picture to WebP with quality 80."""
        places = cycle(range(self.pictures))

        async def call(http: httpx.AsyncClient) -> int:
            place = next(places)
            answer = await http.get(f"/unsafe/filters:format(webp):quality(80)/{place}.jpg")
            if answer.headers.get("content-type") != "image/webp":
                raise Unexpected(f"thumbor: {answer.status_code} {answer.headers}")
            return place

        return call


@contextlib.contextmanager
def thumbor(program: Path, pictures: list[bytes], processes: int) -> Iterator[Thumbor]:
    """Run thumbor on a free loopback port until the end of the context. `program` is the path of its command."""
    with tempfile.TemporaryDirectory(prefix="pixtools-bench-thumbor-") as folder, contextlib.ExitStack() as stack:
        for place, data in enumerate(pictures):
            (Path(folder) / f"{place}.jpg").write_bytes(data)
        configuration = Path(folder) / "thumbor.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder))
        port = free_port()
        process = subprocess.Popen(
            [program, "-i", "127.0.0.1", "-p", str(port), "-c", configuration, "--processes", str(processes)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stack.enter_context((Path(folder) / "log").open("wb")),
        )
        stack.callback(_stop, process)
        url = f"http://127.0.0.1:{port}"
        wait_until_answers(f"{url}/healthcheck", process, _START_TIMEOUT_S)
        yield Thumbor(url, psutil.Process(process.pid), len(pictures))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop thumbor with the processes that it has forked. They do not end by themselves."""
    forked = family(psutil.Process(process.pid))[1:] if process.poll() is None else []
    stop(process)
    for child in forked:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
