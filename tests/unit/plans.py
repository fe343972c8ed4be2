"""Helpers for tests: build the plan of a `steps` document, or let Hypothesis draw a valid `steps` document."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from images import LIMITS

from dag.plan import SOURCE, Plan, Source
from dag.specification import build
from pixtools.imaging.picture import Size

SHA = "ab" * 32


def plan(
    document: dict[str, Any], name: str = "IMG_1.jpg", sha256: str = SHA, size: Size = (4000, 3000),
) -> Plan:  # fmt: skip
    """Return the plan of a `steps` document for a source with these properties."""
    return build(document, Source(name, sha256, size), 50, LIMITS)


@st.composite
def documents(draw: st.DrawFn, most: int = 10) -> dict[str, dict[str, Any]]:
    """Draw a valid `steps` document of 1 to `most` steps, in any order and with any connections."""
    pixels, images, other_files = [SOURCE], [SOURCE], []
    steps: dict[str, dict[str, Any]] = {}
    for number in range(draw(st.integers(1, most))):
        name = f"s{number}"
        op = draw(st.sampled_from(["resize", "denoise", "jpg", "png", "avif", "metadata", "zip"]))
        if op == "zip":
            readable = sorted({*pixels, *images, *other_files})
            read = draw(st.lists(st.sampled_from(readable), min_size=1, unique=True))
        else:
            read = draw(st.sampled_from(images if op == "metadata" else pixels))
        steps[name] = {"op": op, "input": read}
        if op == "resize":
            steps[name] |= {"width": draw(st.integers(1, 3)), "keep": draw(st.booleans())}
        made = pixels if op in ("resize", "denoise") else other_files if op in ("metadata", "zip") else images
        made.append(name)
    return {name: steps[name] for name in draw(st.permutations(list(steps)))}
