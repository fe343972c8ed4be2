"""Starts Chromium for the tests that need a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(_CHROMIUM is None, reason="needs Chromium")


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Run a headless Chromium. Add `arguments` to the command-line arguments that all tests use."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *arguments]
        )
        yield browser
        browser.close()
