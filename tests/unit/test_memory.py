"""The memory limit of a process. Each test sets a limit in a new process, because no process can raise its limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pixtools import memory

MB = 1_000_000


def run(program: str) -> str:
    """Run a program that can use `limit` and `MB`. Return the output of the program, or fail if the program fails."""
    program = f"from pixtools.memory import limit\nMB = {MB}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_node_has_at_most_the_memory_of_the_machine():
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
def test_the_limits_of_all_cgroups_around_the_process_count(tmp_path, membership, files, limits):
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    membership_file = tmp_path / "membership"
    membership_file.write_text(membership + "\n")

    assert list(memory._limits_of_cgroups(membership_file, root)) == limits


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


def test_an_allocation_beyond_the_limit_fails_and_the_process_lives():
    assert run(TAKE + "take(50 * MB); take(300 * MB); take(50 * MB)") == "granted refused granted "


def test_freed_memory_can_be_allocated_again():
    assert run(TAKE + "for _ in range(5): take(150 * MB)") == "granted " * 5


def test_allocated_memory_counts():
    assert run(TAKE + "held = bytearray(120 * MB); take(120 * MB); del held; take(120 * MB)") == "refused granted "


def test_memory_allocated_before_the_limit_does_not_count():
    assert run("before = bytearray(500 * MB)\n" + TAKE + "take(150 * MB)") == "granted "


@pytest.mark.parametrize(
    "allocation", ["numpy.ones(300_000_000, 'u1')", "PIL.Image.new('RGB', (10_000, 10_000), 'red')"]
)
def test_libraries_raise_memory_error_at_the_limit(allocation):
    program = f"import numpy, PIL.Image\nlimit(200 * MB)\ntry: {allocation}\nexcept MemoryError: print('refused')"

    assert run(program) == "refused\n"


def test_shared_memory_does_not_count():
    """Pixels from another converter are in shared memory."""
    program = "import mmap\nlimit(100 * MB)\nshared = mmap.mmap(-1, 500 * MB)\nshared[499 * MB] = 1\nprint(len(shared))"

    assert run(program) == f"{500 * MB}\n"
