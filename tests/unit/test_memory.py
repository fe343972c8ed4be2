"""A process's own limit of memory, each in a process of its own: whoever runs the tests keeps all they have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pixtools import memory

MB = 1_000_000


def run(program: str) -> str:
    """Return what a program prints that has `limit` at hand, having seen that it came to its end."""
    program = f"from pixtools.memory import limit\nMB = {MB}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_node_has_some_memory_and_no_more_than_the_machine():
    machine = int(Path("/proc/meminfo").read_text().split()[1]) * 1024

    assert 100 * MB < memory.of_node() <= machine


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "500", "memory.max": "900"}, [500, 900]),
        ("0::/", {"memory.max": "700"}, [700]),
        ("0::/", {}, []),
        ("0::/of/the/host", {"memory.max": "700"}, [700]),
        ("1:cpu:/x\n4:memory:/x", {"memory/x/memory.limit_in_bytes": "300", "cpu/x/memory.max": "1"}, [300]),
        ("4:memory:/docker/1", {"memory/memory.limit_in_bytes": "300"}, [300]),
    ],
)
def test_the_limits_of_all_cgroups_around_us_count(tmp_path, membership, files, limits):
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    ours = tmp_path / "membership"
    ours.write_text(membership + "\n")

    assert list(memory._limits_of_cgroups(ours, root)) == limits


TAKE = """
def take(number):
    try:
        bytearray(number)
    except MemoryError:
        print("refused", end=" ")
    else:
        print("granted", end=" ")

limit(200 * MB)
"""


def test_what_asks_for_more_is_refused_and_the_process_lives():
    assert run(TAKE + "take(50 * MB); take(300 * MB); take(50 * MB)") == "granted refused granted "


def test_what_was_given_back_can_be_taken_again():
    assert run(TAKE + "for _ in range(5): take(150 * MB)") == "granted " * 5


def test_what_is_held_counts():
    assert run(TAKE + "held = bytearray(120 * MB); take(120 * MB); del held; take(120 * MB)") == "refused granted "


def test_what_the_process_had_before_does_not_count():
    assert run("before = bytearray(500 * MB)\n" + TAKE + "take(150 * MB)") == "granted "


@pytest.mark.parametrize(
    "allocation", ["numpy.ones(300_000_000, 'u1')", "PIL.Image.new('RGB', (10_000, 10_000), 'red')"]
)
def test_libraries_meet_the_limit_as_a_memory_error(allocation):
    program = f"import numpy, PIL.Image\nlimit(200 * MB)\ntry: {allocation}\nexcept MemoryError: print('refused')"

    assert run(program) == "refused\n"


def test_memory_shared_with_others_does_not_count():
    """Where pixels from another converter lie."""
    program = "import mmap\nlimit(100 * MB)\nshared = mmap.mmap(-1, 500 * MB)\nshared[499 * MB] = 1\nprint(len(shared))"

    assert run(program) == f"{500 * MB}\n"
