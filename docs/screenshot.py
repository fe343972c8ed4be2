"""Runs a job on the page and takes a screenshot for the README: python docs/screenshot.py [http://127.0.0.1:8000].

The module `scene` draws the photo of the job. The environment variable CHROMIUM may give the path of the browser.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from playwright.sync_api import Page, sync_playwright
from scene import dunes

PAGE = Path(__file__).with_name("page.png")
MAX_BYTES = 300_000


def photo(width: int = 2400, height: int = 1600) -> bytes:
    """Return the dunes as a JPEG with EXIF and grain, like the file of a camera. Grain is hard to compress."""
    scene = dunes(width, height)
    grain = np.random.default_rng(7).normal(0, 0.012, (height, width, 1))
    exif = Image.Exif()
    exif.update({ExifTags.Base.Make: "Pix", ExifTags.Base.Model: "Pix T-1000"})
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.ISOSpeedRatings: 200, ExifTags.Base.LensModel: "35mm f/1.8", ExifTags.Base.FNumber: 5.6},
    )
    out = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(scene + grain, 0, 1) * 255)).save(out, "JPEG", quality=93, exif=exif)
    return out.getvalue()


def run_job(page: Page, url: str) -> None:
    """Choose the photo on the page, add steps, start the job, and wait until the page shows all results."""
    page.goto(url)
    page.get_by_label("Choose a photo").set_input_files(
        {"name": "dunes.jpg", "mimeType": "image/jpeg", "buffer": photo()},
    )
    for title in ("WebP", "AVIF", "Metadata", "ZIP"):
        page.get_by_role("button", name=f"Add {title}", exact=True).click()
    for name, new, width in (("webp", "web", 1280), ("avif", "small", 640)):
        card = page.get_by_role("group", name=f"Step {name}", exact=True)
        card.get_by_label("Width").fill(str(width))
        card.get_by_label("Name").fill(new)
    page.get_by_role("group", name="Step web", exact=True).get_by_label("Target").fill("75")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("#job-state.is-succeeded").wait_for(timeout=120_000)
    page.evaluate("Promise.all([...document.querySelectorAll('.result img')].map(image => image.decode()))")


def main(url: str) -> None:
    """Open the page at `url`, run the job, and write the screenshot."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1090}, reduced_motion="reduce")
        run_job(page, url)
        shot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    shot.convert("RGB").save(PAGE, optimize=True)
    if PAGE.stat().st_size > MAX_BYTES:
        sys.exit(f"{PAGE} has {PAGE.stat().st_size} bytes, more than {MAX_BYTES}")
    print(f"{PAGE}: {PAGE.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
