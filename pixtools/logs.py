"""Where log lines go: to stderr, one event a line, which Ray keeps in a file for each process."""

from __future__ import annotations

import logging


def to_stderr() -> None:
    """Set up the logging of a process of ours; does nothing where its host has set up its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
