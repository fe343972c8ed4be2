"""The code digest changes when code that actors run changes. Actors with an old digest are replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.fleet import code_digest

FILES = {
    "actors/dispatcher.py": "a = 1",
    "dag/plan.py": "a = 1",
    "pixtools/imaging/picture.py": "a = 1",
    "pixtools/imaging/profile.icc": "a = 1",
    "pixtools/local/stores.py": "a = 1",
    "pixtools/training/run.py": "a = 1",
    "serve/routes.py": "a = 1",
}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["actors/dispatcher.py", "dag/plan.py", "pixtools/imaging/picture.py"])
def test_a_change_of_code_that_runs_in_an_actor_changes_the_digest(code, name):
    before = code_digest(code)

    (code / name).write_text("a = 2")

    assert code_digest(code) != before


def test_a_new_file_changes_the_digest(code):
    before = code_digest(code)

    (code / "pixtools/imaging/new.py").write_text("")

    assert code_digest(code) != before


@pytest.mark.parametrize("name", ["pixtools/training/run.py", "pixtools/local/stores.py", "serve/routes.py"])
def test_a_change_of_code_that_runs_in_no_actor_keeps_the_digest(code, name):
    before = code_digest(code)

    (code / name).write_text("a = 2")

    assert code_digest(code) == before


def test_the_actors_import_nothing_that_the_digest_leaves_out():
    program = (
        "import sys, actors.fleet\n"
        "print([name for name in sys.modules if name.startswith(('pixtools.local', 'pixtools.training', 'serve'))])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
