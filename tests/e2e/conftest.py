"""Fixtures for tests of the page: a real browser opens the page of the running service."""

from __future__ import annotations

import pytest
from chromium import chromium
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def browser():
    """A browser that makes no requests in the background."""
    with chromium("--disable-background-networking") as browser:
        yield browser


@pytest.fixture
def blank_page(browser):
    """An empty page.

    `page.faults` collects exceptions and console errors. The browser reports violations of the content security policy
    as console errors.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    yield page
    context.close()


@pytest.fixture
def page(blank_page, stack):
    """The page of the service, with the form for a new job."""
    blank_page.goto(stack.base_url)
    expect(blank_page.get_by_role("button", name="Add WebP")).to_be_visible()
    return blank_page
