"""exiftool, which knows more places to hide things in than we do: a second opinion on every file that is written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None,
    reason="exiftool is not installed (Debian: apt-get install libimage-exiftool-perl)",
)


def tags(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the tags of each file of a folder by its name, unknown ones too: `GROUP:TAG`, values as numbers."""
    found = subprocess.run(
        ["exiftool", "-json", "-G1", "-a", "-u", "-n", "-r", str(folder)],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return {Path(one["SourceFile"]).name: one for one in json.loads(found.stdout)}


def tells_who_or_where(found: dict[str, Any]) -> list[str]:
    """Return what of the tags says where a picture was taken, or by which one camera or person; and hidden pictures."""
    groups = ("GPS", "XMP", "IPTC", "IFD1", "SubIFD", "Photoshop", "MPF")
    words = ("serial", "owner", "gps", "uniqueid", "makernote", "thumbnail", "preview", "usercomment", "hostcomputer")
    return [
        name
        for name in found
        if name.startswith(groups) or any(word in name.partition(":")[2].lower() for word in words)
    ]
