"""Reads the titles of processes."""

from __future__ import annotations

import psutil


def title_of(process: psutil.Process) -> str:
    """Return the title that Ray gives to a process as its command line. It is empty if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
