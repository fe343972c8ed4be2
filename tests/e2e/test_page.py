"""The page in a real browser, against the whole service."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from sideways import is_upright, sideways_photo

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
A_JOB_MS = 60_000  # the first job of a cold cluster starts its converters

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, stack):
    """The page, opened. `page.faults` gathers console errors, exceptions and breaches of the content policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(stack.base_url)
    expect(page.get_by_role("button", name="Add WebP")).to_be_visible()
    yield page
    context.close()


def photo(seed: int, width: int = 640, height: int = 480) -> dict:
    """A JPEG of its own for each test, so that no step is answered from another's cache."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return {"name": f"photo-{seed}.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()}


def add(page, *titles):
    for title in titles:
        page.get_by_role("button", name=f"Add {title}", exact=True).click()


def step(page, name):
    return page.get_by_role("group", name=f"Step {name}", exact=True)


def start(page):
    page.get_by_role("button", name="Start", exact=True).click()


def wait_until_succeeded(page):
    expect(page.locator("#job-state")).to_have_text("succeeded", timeout=A_JOB_MS)


def result(page, name):
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.get_by_role("list").get_by_role("listitem").filter(has=heading)


def download(page, name) -> bytes:
    with page.expect_download() as started:
        result(page, name).get_by_role("link", name=re.compile("^Download")).click()
    return started.value.path().read_bytes()


def test_a_photo_becomes_webp_avif_and_metadata_by_five_clicks(page):
    page.get_by_label("Choose a photo").set_input_files(photo(1))
    add(page, "WebP", "AVIF", "Metadata")
    start(page)
    wait_until_succeeded(page)

    for name in ("webp", "avif"):
        expect(result(page, name)).to_contain_text("640 × 480")
        expect(result(page, name)).to_contain_text(re.compile(r"\d+ % (smaller|larger)|same size"))
    expect(result(page, "metadata").get_by_role("definition").filter(has_text="640")).to_be_visible()
    expect(page.locator("#history a").first).to_contain_text("succeeded")

    picture = Image.open(io.BytesIO(download(page, "webp")))
    assert (picture.format, picture.size) == ("WEBP", (640, 480))
    shown = page.locator(".result img").evaluate_all(
        "async images => { await Promise.all(images.map(i => i.decode())); return images.map(i => i.naturalWidth); }"
    )
    assert shown == [640, 640]
    assert page.faults == []


def test_a_graph_of_a_12_megapixel_photo_on_its_side_can_be_built_by_hand(page):
    data = sideways_photo(3000, 4000, seed=2)
    page.get_by_label("Choose a photo").set_input_files({"name": "IMG_1.jpg", "mimeType": "image/jpeg", "buffer": data})
    add(page, "ZIP", "WebP", "AVIF", "Metadata", "PNG")  # the bundle follows what is added after it
    step(page, "webp").get_by_label("Width").fill("1280")
    step(page, "avif").get_by_label("Width").fill("320")
    for old, new in (("webp", "web"), ("avif", "small"), ("metadata", "exif"), ("zip", "all")):
        step(page, old).get_by_label("Name").fill(new)
    for name in ("web", "small", "exif", "png"):
        expect(step(page, "all").get_by_label(name, exact=True)).to_be_checked()
    step(page, "all").get_by_label("png", exact=True).uncheck()
    start(page)
    wait_until_succeeded(page)

    for name, size in (("web", (1280, 1707)), ("small", (320, 427)), ("png", (3000, 4000))):
        expect(result(page, name)).to_contain_text(f"{size[0]} × {size[1]}")
        picture = Image.open(io.BytesIO(download(page, name)))
        assert picture.size == size
        assert is_upright(picture)
    with zipfile.ZipFile(io.BytesIO(download(page, "all"))) as bundle:
        assert sorted(bundle.namelist()) == ["IMG_1-exif.json", "IMG_1-small.avif", "IMG_1-web.webp"]
    assert page.faults == []


def test_a_step_that_cannot_run_is_marked_where_it_stands_and_nothing_is_lost(page):
    page.get_by_label("Choose a photo").set_input_files(photo(3))
    add(page, "WebP", "PNG")
    step(page, "webp").get_by_label("Name").fill("web")
    step(page, "png").get_by_label("Name").fill("a slash/")
    start(page)

    expect(step(page, "a slash/").locator(".field-error:visible")).to_have_count(1)
    expect(step(page, "web").locator(".field-error:visible")).to_have_count(0)
    expect(page.locator("#photo-name")).to_have_text("photo-3.jpg")

    step(page, "a slash/").get_by_label("Name").fill("png")
    start(page)
    wait_until_succeeded(page)
    expect(result(page, "png")).to_contain_text("640 × 480")


def test_a_resize_without_a_size_says_what_is_missing(page):
    page.get_by_label("Choose a photo").set_input_files(photo(5))
    add(page, "Resize")
    expect(page.locator("#start-reason")).to_have_text("To start, give step resize a width or a height.")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()

    step(page, "resize").get_by_label("Height").fill("200")
    expect(page.locator("#start-reason")).to_have_text("Ready.")


def test_an_encoder_added_after_a_resize_reads_it(page):
    add(page, "Resize", "WebP", "Metadata")
    for name, read in (("webp", "resize"), ("metadata", "source (your photo)")):
        expect(step(page, name).get_by_label("Input").locator("option:checked")).to_have_text(read)

    page.reload()
    expect(step(page, "webp").get_by_label("Input").locator("option:checked")).to_have_text("resize")


def test_a_heic_photo_is_refused_when_picked(page):
    page.get_by_label("Choose a photo").set_input_files({"name": "IMG_1.HEIC", "mimeType": "", "buffer": b"ftypheic"})
    expect(page.locator("#photo-note")).to_contain_text("export it as JPEG")
    expect(page.get_by_text("This browser cannot show it")).to_have_count(0)


def test_a_text_file_named_png_is_refused_beside_the_start_button(page):
    text = {"name": "notes.png", "mimeType": "image/png", "buffer": b"This is no picture.\n" * 20}
    page.get_by_label("Choose a photo").set_input_files(text)
    add(page, "WebP")
    start(page)

    expect(page.locator("#refusal")).to_be_visible()
    expect(page.locator("#refusal")).to_be_focused()
    expect(page.locator("#photo-name")).to_have_text("notes.png")
    expect(step(page, "webp")).to_be_visible()


def test_a_job_is_still_there_after_a_reload_and_lends_its_steps_to_the_next(page):
    page.get_by_label("Choose a photo").set_input_files(photo(4))
    add(page, "WebP")
    step(page, "webp").get_by_label("Quality", exact=True).fill("55")
    start(page)
    expect(page.locator("#job-title")).to_be_focused()
    page.reload()

    expect(page.get_by_role("heading", name="photo-4.jpg")).to_be_visible()
    wait_until_succeeded(page)
    page.get_by_role("button", name="Same steps, another photo").click()
    expect(step(page, "webp").get_by_label("Quality", exact=True)).to_have_value("55")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    assert page.faults == []


def test_nothing_sticks_out_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    add(page, "WebP", "AVIF", "Metadata", "PNG", "ZIP")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.locator("main button:visible, main a:visible").evaluate_all(
        "nodes => nodes.filter(node => node.getBoundingClientRect().height < 44).map(node => node.textContent)"
    )
    assert small == []
