"""The folder of one local service: its data, secrets and logs, and the lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self._make()
        except OSError as error:
            raise LocalError(
                f"Cannot use {self.path} ({error.strerror}): choose another folder with PIXTOOLS_HOME"
            ) from error

    @property
    def digest(self) -> str:
        """A short name for this home where the home's own path is too long or closed."""
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def secret_path(self, name: str) -> Path:
        return self.path / "secrets" / name

    def secret(self, name: str) -> str:
        """Return the secret of this name; it is made the first time and stays the same from then on."""
        path = self.secret_path(name)
        if not path.exists():
            # Renamed into place, so that a crash never leaves an empty secret.
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                file.write(secrets.token_hex(24))
            new.rename(path)
        return path.read_text().strip()

    @contextmanager
    def locked(self, page_url: str) -> Iterator[None]:
        """Hold this home until this process and all that it forked have let go; raise LocalError if taken."""
        with open(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:  # noqa: PTH123
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LocalError(f"PixTools is already running ({file.read()}) in {self.path}") from error
            file.truncate()
            file.write(f"pid {os.getpid()}, page at {page_url}")
            file.flush()
            yield

    def _make(self) -> None:
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.path.chmod(0o711)  # whatever the umask: Postgres, as nobody, must pass through to its data
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.secret_path("").mkdir(mode=0o700, exist_ok=True)
