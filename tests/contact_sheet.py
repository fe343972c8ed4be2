"""Contact sheets, to look at: python tests/contact_sheet.py [folder].

formats.png has a row for each kind of file and a column for each output, with the score, the shift of colours and the
bytes of each; operations.png has a cell for each operation. Nothing on them is asserted: test_matrix does that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from color_math import DISPLAY_P3, SRGB, moved_8_bit, read_profile, rgb_profile
from images import saved
from likeness import likeness
from PIL import Image, ImageDraw, ImageFont
from read_back import composed, read_back
from specimens import HEIGHT, SPECIMENS, WIDTH, Specimen, scene, with_alpha

from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Picture
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Composite

FONT = ImageFont.load_default(12)
LINE, GAP, CELL = 16, 6, 300

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("jpg", {}),
    "png": ("png", {}),
    "webp": ("webp", {}),
    "webp lossless": ("webp", {"lossless": True}),
    "avif": ("avif", {}),
    "avif in sRGB, quality 40": ("avif", {"color": "srgb", "quality": 40}),
}

WORK: list[tuple[str, dict[str, Any]]] = [
    *[
        ("resize", {"width": 360, "height": 360, "fit": fit} | more)
        for fit, more in (("inside", {}), ("contain", {"background": "#ffcc00"}), ("cover", {}), ("fill", {}))
    ],
    ("resize", {"width": 450, "height": 450, "fit": "contain"}),
    ("resize", {"width": 800, "upscale": True}),
    ("crop", {"width": 300, "height": 240}),
    ("crop", {"width": 180, "height": 180, "x": 0, "y": 0}),
    *[("rotate", {"degrees": degrees}) for degrees in (90.0, 30.0, -45.0)],
    ("rotate", {"degrees": 30.0, "background": "#203040"}),
    ("flip", {"direction": "horizontal"}),
    ("flip", {"direction": "vertical"}),
    ("blur", {"radius": 12.0}),
    ("sharpen", {"radius": 5.0, "amount": 2.0}),
    ("grayscale", {}),
    ("watermark", {"text": "© PixTools"}),
    ("watermark", {"text": "Two\nlines", "position": "center", "opacity": 1.0, "color": "#ffe000"}),
    ("watermark", {"text": "draft", "position": "tile", "opacity": 0.4}),
    ("watermark", {"image": "logo"}),
    ("watermark", {"image": "logo", "position": "top-left", "scale": 0.5, "opacity": 1.0}),
]


def logo() -> bytes:
    """Return a PNG of a disc with a hole and soft edges."""
    y, x = np.mgrid[-60:60, -60:60]
    off = np.hypot(x, y)
    clear = np.clip((58 - off) / 6, 0, 1) * np.clip((off - 24) / 6, 0, 1)
    return saved(np.dstack([np.full((120, 120, 3), (20, 90, 200)), clear * 255]).astype(np.uint8), "PNG")


def shown(pixels: np.ndarray) -> Image.Image:
    """Return pixels on a chequered ground, where they are transparent."""
    height, width = pixels.shape[:2]
    squares = (np.indices((height, width)) // 8).sum(axis=0) % 2
    ground = Image.fromarray((180 + 60 * squares).astype(np.uint8))
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")
    return Image.alpha_composite(ground.convert("RGBA"), picture).convert("RGB")


def sheet(cells: Iterable[tuple[Image.Image, list[str]]], columns: int, width: int, height: int) -> Image.Image:
    """Return a grid of pictures with lines of text below."""
    made = list(cells)
    lines = max(len(text) for _, text in made)
    across, down = width + GAP, height + lines * LINE + GAP
    page = Image.new("RGB", (columns * across + GAP, -(-len(made) // columns) * down + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (picture, text) in enumerate(made):
        left, top = GAP + number % columns * across, GAP + number // columns * down
        page.paste(picture, (left, top))
        for line, words in enumerate(text):
            draw.text((left, top + height + line * LINE), words, "black", FONT)
    return page


def converted(specimen: Specimen, op: str, params: dict[str, Any]) -> tuple[Image.Image, str]:
    operation = OPERATIONS[op]
    data = operation.encode(decode(specimen.data), operation.params(**params), len(specimen.data)).data
    found = read_back(data)
    alike = likeness(composed(found.frames[0], 255), composed(specimen.frames[0], 255))
    frames = f", {len(found.frames)} frames" if len(found.frames) > 1 else ""
    return shown(found.frames[0]), f"{alike}, {len(data):,} B{frames}"


def format_cells() -> Iterable[tuple[Image.Image, list[str]]]:
    for name, make in SPECIMENS.items():
        specimen = make()
        yield shown(specimen.frames[0]), [name, f"as it is, {len(specimen.data):,} B"]
        for output, (op, params) in FORMATS.items():
            picture, text = converted(specimen, op, params)
            yield picture, [f"to {output}", text]


def operation_cells() -> Iterable[tuple[Image.Image, list[str]]]:
    wide = Image.fromarray(moved_8_bit(scene(), SRGB, DISPLAY_P3)).resize((3 * WIDTH, 3 * HEIGHT))
    clear = Image.fromarray(with_alpha(scene())).resize((3 * WIDTH, 3 * HEIGHT))
    sources = {"wide": saved(wide, "PNG", icc_profile=rgb_profile(DISPLAY_P3)), "clear": saved(clear, "PNG")}
    for source, data in sources.items():
        for op, params in WORK:
            operation = OPERATIONS[op]
            model, before = operation.params(**params), decode(data)
            parts = {"logo": logo()}
            after = (
                operation.run(before, model, parts)
                if isinstance(operation, Composite)
                else operation.run(before, model)
            )
            words = ", ".join(f"{name} {value}" for name, value in params.items()).replace("\n", "/")
            picture = shown(in_srgb(after))
            picture.thumbnail((CELL, CELL))
            yield picture, [f"{op} of {source}: {after.size[0]} x {after.size[1]}", words[:50], words[50:]]


def in_srgb(picture: Picture) -> np.ndarray:
    pixels = np.asarray(picture.image.convert("RGBA"))
    if picture.icc is None or picture.icc[16:20] != b"RGB ":
        return pixels
    return np.dstack([moved_8_bit(pixels[..., :3], read_profile(picture.icc), SRGB), pixels[..., 3]])


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    operations = sheet(operation_cells(), 5, CELL, CELL)
    operations.save(folder / "operations.png")
    formats = sheet(format_cells(), 1 + len(FORMATS), WIDTH, HEIGHT)
    formats.save(folder / "formats.png")
    for name in ("formats", "operations"):
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build"))
