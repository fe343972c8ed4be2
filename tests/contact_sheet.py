"""Draws contact sheets for people to look at: python tests/contact_sheet.py [folder].

formats.png has a row for each kind of file and a column for each output format. Below each picture are its score, its
colour shift and the size of the file. operations.png has two cells for each entry of OPERATION_PARAMS. This script
asserts nothing: the assertions are in test_matrix.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from color_math import DISPLAY_P3, SRGB, converted_8_bit, read_profile, rgb_profile
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

OPERATION_PARAMS: list[tuple[str, dict[str, Any]]] = [
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
    """Return a logo as a PNG file: a ring with soft edges."""
    y, x = np.mgrid[-60:60, -60:60]
    distance = np.hypot(x, y)
    alpha = np.clip((58 - distance) / 6, 0, 1) * np.clip((distance - 24) / 6, 0, 1)
    return saved(np.dstack([np.full((120, 120, 3), (20, 90, 200)), alpha * 255]).astype(np.uint8), "PNG")


def on_checkers(pixels: np.ndarray) -> Image.Image:
    """Return the pixels on a chequered background, which shows where they are transparent."""
    height, width = pixels.shape[:2]
    squares = (np.indices((height, width)) // 8).sum(axis=0) % 2
    ground = Image.fromarray((180 + 60 * squares).astype(np.uint8))
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")
    return Image.alpha_composite(ground.convert("RGBA"), picture).convert("RGB")


def sheet(cells: Iterable[tuple[Image.Image, list[str]]], columns: int, width: int, height: int) -> Image.Image:
    """Return a grid of pictures of `width` × `height` pixels, each with lines of text below it."""
    drawn = list(cells)
    lines = max(len(text) for _, text in drawn)
    step_x, step_y = width + GAP, height + lines * LINE + GAP
    rows = math.ceil(len(drawn) / columns)
    page = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (picture, text) in enumerate(drawn):
        left, top = GAP + number % columns * step_x, GAP + number // columns * step_y
        page.paste(picture, (left, top))
        for line, words in enumerate(text):
            draw.text((left, top + height + line * LINE), words, "black", FONT)
    return page


def encoded(specimen: Specimen, op: str, params: dict[str, Any]) -> tuple[Image.Image, str]:
    """Return the first frame of the encoded specimen, and a text that compares the frame with the original."""
    operation = OPERATIONS[op]
    data = operation.encode(decode(specimen.data), operation.params(**params), len(specimen.data)).data
    found = read_back(data)
    alike = likeness(composed(found.frames[0], 255), composed(specimen.frames[0], 255))
    frames = f", {len(found.frames)} frames" if len(found.frames) > 1 else ""
    return on_checkers(found.frames[0]), f"{alike}, {len(data):,} B{frames}"


def format_cells() -> Iterable[tuple[Image.Image, list[str]]]:
    """Yield the cells in order: a specimen, all outputs of that specimen, then the next specimen."""
    for name, make in SPECIMENS.items():
        specimen = make()
        yield on_checkers(specimen.frames[0]), [name, f"original, {len(specimen.data):,} B"]
        for output, (op, params) in FORMATS.items():
            picture, text = encoded(specimen, op, params)
            yield picture, [f"to {output}", text]


def operation_cells() -> Iterable[tuple[Image.Image, list[str]]]:
    """Yield two cells for each entry of OPERATION_PARAMS: an opaque picture in Display P3, and one with alpha."""
    wide = Image.fromarray(converted_8_bit(scene(), SRGB, DISPLAY_P3)).resize((3 * WIDTH, 3 * HEIGHT))
    clear = Image.fromarray(with_alpha(scene())).resize((3 * WIDTH, 3 * HEIGHT))
    sources = {"wide": saved(wide, "PNG", icc_profile=rgb_profile(DISPLAY_P3)), "clear": saved(clear, "PNG")}
    for source, data in sources.items():
        for op, params in OPERATION_PARAMS:
            operation = OPERATIONS[op]
            model, before = operation.params(**params), decode(data)
            parts = {"logo": logo()}
            after = (
                operation.run(before, model, parts)
                if isinstance(operation, Composite)
                else operation.run(before, model)
            )
            words = ", ".join(f"{name} {value}" for name, value in params.items()).replace("\n", "/")
            picture = on_checkers(in_srgb(after))
            picture.thumbnail((CELL, CELL))
            yield picture, [f"{op} of {source}: {after.size[0]} x {after.size[1]}", words[:50], words[50:]]


def in_srgb(picture: Picture) -> np.ndarray:
    """Return the pixels of a picture as uint8 (H, W, 4) in sRGB."""
    pixels = np.asarray(picture.image.convert("RGBA"))
    if picture.icc is None or picture.icc[16:20] != b"RGB ":
        return pixels
    return np.dstack([converted_8_bit(pixels[..., :3], read_profile(picture.icc), SRGB), pixels[..., 3]])


def main(folder: Path) -> None:
    """Write both sheets into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    operations = sheet(operation_cells(), 5, CELL, CELL)
    operations.save(folder / "operations.png")
    formats = sheet(format_cells(), 1 + len(FORMATS), WIDTH, HEIGHT)
    formats.save(folder / "formats.png")
    for name in ("formats", "operations"):
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build"))
