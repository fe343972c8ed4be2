"""Fuzz the reading of headers with files that are made to be costly. No header may cost much."""

from __future__ import annotations

import io

import pytest
from cost_target import Target, run
from hostile_headers import hostile_file
from images import LIMITS
from test_fuzz import seeds

from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.imaging.header import inspect


def read_header(data: bytes) -> None:
    """Read the header of a file, as a sandboxed process of the ingress does. The process holds one copy of the file."""
    inspect(io.BytesIO(bytes(memoryview(data))), LIMITS)


@pytest.mark.parametrize("format_name", MEDIA_TYPES)
def test_a_hostile_header_is_read_or_refused_at_a_small_cost(format_name):
    files = seeds(format_name)
    target = Target(
        read_header,
        lambda random: hostile_file(format_name, files, random),
        len,
        files,
        cpu_s_per_byte=0.3e-6,
        bytes_per_byte=3,
        base_cpu_s=0.3,
        base_bytes=25_000_000,
    )
    run(f"header {format_name}", target)
