"""Reads the titles of processes."""

from __future__ import annotations

import psutil


def title_of(process: psutil.Process) -> str:
    """Return the command line of a process, which Ray replaces by a title. It is empty after the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
