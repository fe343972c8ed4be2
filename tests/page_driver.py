"""Photos to upload, and the actions and elements of the page that several browser tests need."""

from __future__ import annotations

import io
import re
import time

import numpy as np
from images import saved
from PIL import Image
from playwright.sync_api import Locator, Page, expect

JOB_TIMEOUT_MS = 60_000  # the first job of a new cluster has to wait until its converters have started

File = dict[str, str | bytes]
"""A file in the form that Playwright accepts: name, mimeType and buffer."""


def photo(seed: int, width: int = 640, height: int = 480) -> File:
    """Return a JPEG. Each seed gives a different file, so no step finds an artifact of an earlier test."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return {"name": f"photo-{seed}.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()}


def cut(seed: int) -> File:
    """Return the first half of a photo. The service accepts its header, but the pixels cannot be decoded."""
    whole = photo(seed)
    return whole | {"name": f"cut-{seed}.jpg", "buffer": whole["buffer"][: len(whole["buffer"]) // 2]}


def noisy(seed: int, deviation: float = 20) -> File:
    """Return a PNG with noise. `deviation` is the standard deviation of the noise, on the scale from 0 to 255."""
    smooth = np.linspace((60, 90, 120), (190, 160, 130), 500)[None]  # (1, 500, 3)
    noise = np.random.default_rng(seed).normal(0, deviation, (300, 500, 3))
    data = saved(np.uint8(np.clip(np.rint(smooth + noise), 0, 255)), "PNG")
    return {"name": f"noisy-{seed}.png", "mimeType": "image/png", "buffer": data}


def choose_photo(page: Page, file: File) -> None:
    """Choose the photo of the next job."""
    page.get_by_label("Choose a photo").set_input_files(file)


def add(page: Page, *titles: str) -> None:
    """Add a step for each of these operations."""
    for title in titles:
        page.get_by_role("button", name=f"Add {title}", exact=True).click()


def step(page: Page, name: str) -> Locator:
    """Return the card of a step in the form."""
    return page.get_by_role("group", name=f"Step {name}", exact=True)


def press(page: Page, name: str) -> None:
    """Press the button with this name."""
    page.get_by_role("button", name=name, exact=True).click()


def start(page: Page) -> None:
    """Start the job."""
    press(page, "Start")


def wait_until(page: Page, state: str) -> None:
    """Wait until the page shows this state of the job."""
    # Before the page shows the new job, the hidden element still has the state of the job before.
    expect(page.locator("#job-state:visible")).to_have_text(state, timeout=JOB_TIMEOUT_MS)


def result(page: Page, name: str) -> Locator:
    """Return the result card of a step."""
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.get_by_role("list").get_by_role("listitem").filter(has=heading)


def download(page: Page, name: str) -> bytes:
    """Press Download at the result of a step, and return the file."""
    with page.expect_download() as started:
        result(page, name).get_by_role("link", name=re.compile("^Download")).click()
    return started.value.path().read_bytes()


def dead_letters(page: Page, file: str) -> Locator:
    """Return the rows of dead letters of one photo. The service also has dead letters of other tests."""
    return page.locator("#dead-letter-list > li").filter(has=page.get_by_role("link", name=file, exact=True))


def toggle_more(page: Page, name: str) -> None:
    """Open or close the folded parameters of a step."""
    step(page, name).locator(".step-parameters > details > summary").click()


def assert_fits_a_phone(page: Page) -> None:
    """Check that nothing is wider than a phone, and that buttons and links are high enough for a finger."""
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    low = "node => node.getBoundingClientRect().height < 44"
    controls = page.locator("main :is(button, a, summary):visible")
    # On a busy machine, the browser may lay out the page a little later.
    deadline = time.monotonic() + 10
    while small := controls.evaluate_all(f"nodes => nodes.filter({low}).map(node => node.textContent)"):
        assert time.monotonic() < deadline, small
        page.wait_for_timeout(100)
