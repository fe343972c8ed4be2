"""Draws the results of the benchmark as a PNG: the cost of each mix by process, and its latencies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from parts import MIXES
from PIL import Image, ImageDraw, ImageFont
from report import Results, by_process, value

_WIDTH, _LEFT, _RIGHT = 1200, 430, 90
_ROW, _BAR, _TITLE, _GAP = 46, 26, 60, 40
_SHOWN = 8  # processes with a colour of their own
_INK, _FAINT, _WHITE = "#222222", "#cccccc", "#ffffff"
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f")
_OTHER = "#bab0ac"


def draw(results: Results, path: Path) -> None:
    """Write the chart to `path`. Draws nothing if no mix was measured."""
    letters = [letter for letter in MIXES if letter in results["parts"]]
    if not letters:
        return
    height = 2 * (_TITLE + _ROW * len(letters) + _GAP) + 60
    image = Image.new("RGB", (_WIDTH, height), _WHITE)
    canvas = _Canvas(ImageDraw.Draw(image))
    bottom = _draw_costs(canvas, results, letters, 10)
    _draw_latencies(canvas, results, letters, bottom + _GAP)
    image.save(path)


class _Canvas:
    """Draws with one font."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw
        self._fonts = {size: ImageFont.load_default(size) for size in (15, 20)}

    def text(self, x: float, y: float, text: str, *, anchor: str = "lm", size: int = 15) -> float:
        """Draw text at a point, and return its width."""
        text = text.replace("→", ">").replace("–", "-")  # the font of Pillow lacks these characters
        self._draw.text((x, y), text, _INK, self._fonts[size], anchor=anchor)
        return float(self._draw.textlength(text, self._fonts[size]))

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self._draw.rectangle((left, top, max(left, right), bottom), colour)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> None:
        self._draw.line((x1, y1, x2, y2), colour, width)


def _draw_costs(canvas: _Canvas, results: Results, letters: list[str], top: float) -> float:
    """Draw a bar for each mix, in multiples of the floor, and return the bottom of the panel."""
    costs = {letter: by_process(results, letter) for letter in letters}
    floors = {letter: value(results, letter, "floor_cpu_ms_per_job") or math.nan for letter in letters}
    shares = {letter: {name: ms / floors[letter] for name, ms in cost.items()} for letter, cost in costs.items()}
    total = {name: sum(share.get(name, 0) for share in shares.values()) for share in shares.values() for name in share}
    shown = sorted(total, key=lambda name: -total[name])[:_SHOWN]
    colours = dict(zip(shown, _COLOURS, strict=False))
    longest = max([1.0, *(sum(share.values()) for share in shares.values())])
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    canvas.text(20, top + 20, "CPU of all processes, in multiples of plain Pillow", size=20)
    y = top + _TITLE
    for letter, share in shares.items():
        x = float(_LEFT)
        canvas.text(_LEFT - 10, y + _BAR / 2, f"({letter}) {MIXES[letter].title}", anchor="rm")
        for name in [*shown, None]:
            part = share.get(name, 0) if name else sum(share[other] for other in share if other not in colours)
            canvas.box(x, y, x + part * scale, y + _BAR, colours[name] if name else _OTHER)
            x += part * scale
        canvas.text(x + 8, y + _BAR / 2, f"{sum(share.values()):.2f}")
        y += _ROW
    canvas.line(_LEFT + scale, top + _TITLE - 12, _LEFT + scale, y - _ROW + _BAR + 8, _INK, 2)
    canvas.text(_LEFT + scale, top + _TITLE - 22, "1 = floor", anchor="mm")
    return _draw_legend(canvas, {**colours, "other": _OTHER}, y)


def _draw_legend(canvas: _Canvas, colours: dict[str, str], y: float) -> float:
    x = 20.0
    for name, colour in colours.items():
        canvas.box(x, y + 2, x + 14, y + 16, colour)
        x += 20 + canvas.text(x + 20, y + 9, name) + 18
    return y + 20


def _draw_latencies(canvas: _Canvas, results: Results, letters: list[str], top: float) -> None:
    """Draw the percentiles of each mix on a logarithmic axis, from the first to the last mark: p50, p95, p99."""
    rows: list[tuple[str, dict[str, list[float]]]] = []
    for letter in letters:
        found = {loop: [value(results, letter, f"{loop}_{q}_ms") for q in ("p50", "p95", "p99")] for loop in _LOOPS}
        rows.append((letter, {loop: [ms for ms in values if ms] for loop, values in found.items()}))
    every = [ms for _, loops in rows for values in loops.values() for ms in values]
    canvas.text(20, top + 20, "Latency: p50, p95 and p99 in ms, closed loop (blue) and open loop (orange)", size=20)
    if not every:
        return
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    scale = (_WIDTH - _LEFT - _RIGHT) / max(1, high - low)

    def at(ms: float) -> float:
        return _LEFT + (math.log10(ms) - low) * scale

    y = top + _TITLE + 10
    for exponent in range(low, high + 1):
        canvas.line(at(10**exponent), y - 8, at(10**exponent), y + _ROW * len(rows), _FAINT)
        canvas.text(at(10**exponent), y - 18, f"{10**exponent:,} ms", anchor="mm")
    for letter, loops in rows:
        canvas.text(_LEFT - 10, y + _BAR / 2, f"({letter}) {MIXES[letter].title}", anchor="rm")
        for (loop, values), offset in zip(loops.items(), (4, 18), strict=True):
            _draw_range(canvas, [at(ms) for ms in values], y + offset, _LOOPS[loop])
        y += _ROW


_LOOPS = {"closed": _COLOURS[0], "open": _COLOURS[1]}


def _draw_range(canvas: _Canvas, marks: list[float], y: float, colour: Any) -> None:
    if marks:
        canvas.line(marks[0], y + 3, marks[-1], y + 3, colour, 2)
    for x in marks:
        canvas.box(x - 3, y, x + 3, y + 6, colour)
