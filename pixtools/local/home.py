"""The home: a folder with the data, secrets and logs of one local service, and a lock that stops a second launcher."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Home:
    """The folder of one local service. A missing folder is created. Raises LocalError if the folder cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self._create()
        except OSError as error:
            raise LocalError(
                f"Cannot use {self.path} ({error.strerror}): choose another folder with PIXTOOLS_HOME"
            ) from error

    @property
    def digest(self) -> str:
        """A short name for this home. It is used in paths that must be short or that are outside the home."""
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]

    @property
    def logs(self) -> Path:
        """The folder that contains the logs of the servers."""
        return self.path / "logs"

    def secret_path(self, name: str) -> Path:
        """Return the path of the file that contains the secret `name`."""
        return self.path / "secrets" / name

    def secret(self, name: str) -> str:
        """Return the secret `name`: 48 random hexadecimal digits. The first call creates and stores the secret."""
        path = self.secret_path(name)
        if not path.exists():
            _write_private(path, secrets.token_hex(24))
        return path.read_text().strip()

    def write_node_secrets(self, variables: Mapping[str, str]) -> Path:
        """Write `variables` to a private folder, one file for each variable, and return the folder.

        The nodes of a Ray cluster on this machine read this folder (PIXTOOLS_SECRETS_DIR). Files of variables that are
        no longer set are deleted.
        """
        folder = self.path / "node-secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in variables:
                path.unlink()
        for name, value in variables.items():
            _write_private(folder / name, value)
        return folder

    @contextmanager
    def locked(self, page_url: str) -> Iterator[None]:
        """Hold the lock of this home. Raises LocalError if another launcher holds the lock.

        Forked processes hold the lock too, so the lock is free only after all forked processes have ended.
        """
        with open(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:  # noqa: PTH123
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LocalError(f"PixTools is already running ({file.read()}) in {self.path}") from error
            file.truncate()
            file.write(f"pid {os.getpid()}, page at {page_url}")
            file.flush()
            yield

    def _create(self) -> None:
        if not self.path.exists():
            self.path.mkdir(parents=True)
            # Unlike `mkdir`, `chmod` ignores the umask. If we are root, Postgres runs as the `nobody` user. This user
            # must be able to reach the data.
            self.path.chmod(0o711)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.secret_path("").mkdir(mode=0o700, exist_ok=True)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only our user can read."""
    # Write a new file first and rename it at the end, so that a crash never leaves an incomplete file.
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    new.rename(path)
