"""Reads metadata with exiftool, as an independent check. exiftool finds metadata in more places than PixTools does."""

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
    """Return all known and unknown tags (`GROUP:TAG`) of each file in a folder, by file name.

    exiftool does not replace numbers with words here.
    """
    done = subprocess.run(
        ["exiftool", "-json", "-G1", "-a", "-u", "-n", "-r", str(folder)],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return {Path(one["SourceFile"]).name: one for one in json.loads(done.stdout)}


def identifying_tags(found: dict[str, Any]) -> list[str]:
    """Return the names of tags that identify the place, the camera or the person, or that hold another picture."""
    groups = ("GPS", "XMP", "IPTC", "IFD1", "SubIFD", "Photoshop", "MPF")
    words = ("serial", "owner", "gps", "uniqueid", "makernote", "thumbnail", "preview", "usercomment", "hostcomputer")
    return [
        name
        for name in found
        if name.startswith(groups) or any(word in name.partition(":")[2].lower() for word in words)
    ]
