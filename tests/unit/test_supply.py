"""Tests of the lock files and of the search for secrets."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
BUILD = PROJECT["build-system"]["requires"]
LOCKS = {
    "local": [*BUILD, *PROJECT["project"]["dependencies"], *EXTRAS["local"]],
    "dev": [*BUILD, *PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)],
    "tools": PROJECT["dependency-groups"]["tools"],
}


def locked(name):
    """The packages of a lock file: the version and the number of hashes of each."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements" / f"{name}.txt").read_text())[1:]
    packages = {}
    for entry in entries:
        package, version = re.match(r"([a-z0-9.-]+)==(\S+)", entry).groups()
        packages[package] = (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return packages


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_lists_hashes_of_every_package(name):
    packages = locked(name)
    assert len(packages) > 40
    assert [package for package, (_, hashes) in packages.items() if not hashes] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_satisfies_pyproject(name):
    packages = locked(name)
    required = [Requirement(line) for line in LOCKS[name]]
    # Each index has its own build of PyTorch, so PyTorch has no hash. The extras of PixTools are part of the list.
    checked = {r for r in required if canonicalize_name(r.name) not in {"torch", "pixtools"}}
    assert {r for r in checked if not r.specifier.contains(packages.get(canonicalize_name(r.name), ("0",))[0])} == set()


def test_users_and_developers_get_the_same_versions():
    assert locked("local").items() <= locked("dev").items()


def search(folder):
    return subprocess.run(
        ["make", "-s", "-C", folder, "-f", ROOT / "Makefile", "secrets", f"BIN={Path(sys.executable).parent}"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.heavy  # a first search on a machine compiles the rules, which takes seconds
def test_the_search_for_secrets_finds_a_key_and_does_not_print_it(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "settings.py").write_text('URL = "postgresql://db/pixtools"\n')
    clean = search(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr

    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "settings.py").write_text(f'KEY = """{text}"""\n')
    found = search(tmp_path)
    assert found.returncode != 0
    assert "settings.py" in found.stdout
    assert text.splitlines()[1] not in found.stdout + found.stderr


@pytest.mark.heavy
def test_the_search_for_secrets_fails_outside_a_git_repository(tmp_path):
    assert "not a git repository" in search(tmp_path).stderr
