"""Runs a job on the page, and takes screenshots of the page and of the actors in Ray's dashboard.

    python docs/screenshot.py http://127.0.0.1:8000 http://127.0.0.1:8265 .pixtools/secrets/ray-token

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
ACTORS = Path(__file__).with_name("dashboard.png")
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


def open_actors(page: Page, dashboard: str, token: str) -> None:
    """Show the table of actors in Ray's dashboard."""
    page.set_extra_http_headers({"Authorization": f"Bearer {token}"})
    page.goto(f"{dashboard}/#/actors")
    page.get_by_text("DispatcherActor").first.wait_for(timeout=60_000)


def save(page: Page, path: Path) -> None:
    """Write a screenshot."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        sys.exit(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
    print(f"{path}: {path.stat().st_size} bytes")


def main(url: str, dashboard: str, token: Path) -> None:
    """Open the page at `url`, run the job, and write the screenshots."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1090}, reduced_motion="reduce")
        run_job(page, url)
        save(page, PAGE)
        page = browser.new_page(viewport={"width": 1600, "height": 900}, reduced_motion="reduce")
        open_actors(page, dashboard, token.read_text().strip())
        save(page, ACTORS)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
