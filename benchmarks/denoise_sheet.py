"""Draws a contact sheet of denoised pictures, to look at by eye.

    python benchmarks/denoise_sheet.py build/sheet.png PICTURES...
    python benchmarks/denoise_sheet.py build/sheet.png PICTURES... --strength 0.8 --chroma 1 --detail 0.5

Each row shows a part of one picture: as it is, and denoised at each strength. The part is the one that changes most.
With --middle, and for small pictures, it is the middle. A folder stands for all its pictures.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixtools.denoising.dncnn import load_shipped, parse
from pixtools.denoising.engine import Blend, load_engine
from pixtools.denoising.restoration import denoise
from pixtools.training.pairs import find
from pixtools.training.photo_file import read_photo

GAP, CAPTION = 4, 14  # pixels


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("sheet", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--strength", "strengths", multiple=True, type=float, default=(0.5, 0.8, 1.0), show_default=True)
@click.option("--chroma", type=float, help="By default, the same as the strength.")
@click.option("--detail", type=float, default=0.0, show_default=True)
@click.option("--side", default=256, show_default=True, help="Side of the part, in pixels.")
@click.option("--zoom", default=1, show_default=True, help="Each pixel becomes a square with this side.")
@click.option("--middle", is_flag=True, help="Show the middle of each picture.")
def main(
    sheet: Path,
    paths: tuple[Path, ...],
    weights: Path | None,
    strengths: tuple[float, ...],
    chroma: float | None,
    detail: float,
    side: int,
    zoom: int,
    middle: bool,  # noqa: FBT001 (click passes options as arguments)
) -> None:
    """Draw the sheet."""
    engine = load_engine(parse(weights.read_bytes(), weights.name) if weights else load_shipped(), "cpu", threads=2)
    rows = []
    for path in [photo for given in paths for photo in (find(given) if given.is_dir() else [given])]:
        picture = read_photo(path)
        full, report = denoise(engine, picture[None])
        place = part(picture, full[0], side, middle=middle)
        results = [picture[place]]
        for strength in strengths:
            blend = Blend(strength, strength if chroma is None else chroma, detail)
            results.append(denoise(engine, picture[None], blend)[0][0][place])
        rows.append((f"{path.name}  {report.as_result()}", results))
    draw(rows, side, zoom).save(sheet)
    print(f"{sheet}: {len(rows)} pictures, each as it is and at the strengths {', '.join(map(str, strengths))}")


def part(picture: NDArray[np.uint8], denoised: NDArray[np.uint8], side: int, *, middle: bool) -> tuple[slice, slice]:
    """Return the rows and the columns of the part that is shown."""
    height, width = picture.shape[:2]
    if middle or min(height, width) < 2 * side:
        top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    else:
        removed = np.abs(picture.astype(np.int16) - denoised).mean(axis=2)
        blocks = removed[: height // side * side, : width // side * side]
        sums = blocks.reshape(height // side, side, width // side, side).mean(axis=(1, 3))
        row, column = np.unravel_index(sums.argmax(), sums.shape)
        top, left = int(row) * side, int(column) * side
    return slice(top, top + side), slice(left, left + side)


def draw(rows: list[tuple[str, list[NDArray[np.uint8]]]], side: int, zoom: int) -> Image.Image:
    """Draw the rows one below the other, each with its caption."""
    cell = side * zoom
    columns = len(rows[0][1])
    sheet = Image.new("RGB", (columns * (cell + GAP), len(rows) * (cell + CAPTION + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (caption, results) in enumerate(rows):
        top = number * (cell + CAPTION + GAP)
        pen.text((2, top + 1), caption, fill="black")
        for column, result in enumerate(results):
            image = Image.fromarray(result.squeeze()).convert("RGB")
            image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
            sheet.paste(image, (column * (cell + GAP), top + CAPTION))
    return sheet


if __name__ == "__main__":
    main()
