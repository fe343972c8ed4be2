"""The Dockerfile and compose.yaml: against their schemas, against the settings, and against each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from misspelt import keys, misspelt

from pixtools.local import redis_server
from pixtools.local.local_settings import LocalSettings
from pixtools.settings import VARIABLES, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCHEMA = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())

LOCAL = {f"PIXTOOLS_{name.upper()}" for name in LocalSettings.model_fields}


def faults(compose: dict[str, Any]) -> list[str]:
    """Return what is wrong with a compose file."""
    found = [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(compose)]
    services = compose.get("services", {})
    for name, service in services.items():
        for kind, separator in (("networks", None), ("volumes", ":")):
            used = [each.split(separator)[0] for each in service.get(kind, [])]
            found += [f"{name}: no {kind} {each}" for each in used if each not in compose.get(kind, {})]
        found += [f"{name}: no service {each}" for each in service.get("depends_on", {}) if each not in services]
        found += [f"{name}: no address for it" for host in hosts(service) if host not in services]
        known = VARIABLES | LOCAL | {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
        found += [f"{name}: unknown variable {each}" for each in service.get("environment", {}) if each not in known]
    named = re.findall(r"docker compose logs (\w+)", (ROOT / "docs/docker.md").read_text())
    found += [f"docs/docker.md names the service {each}" for each in named if each not in services]
    used_names = {each.split(":")[0] for service in services.values() for each in service.get("volumes", [])}
    found += [f"unused volume {each}" for each in compose.get("volumes", {}) if each not in used_names]
    return found


def hosts(service: dict[str, Any]) -> list[str]:
    """Return the hosts in the URLs of the stores."""
    urls = (service.get("environment", {}).get(f"PIXTOOLS_{name}_URL", "") for name in ("DATABASE", "REDIS"))
    return [found[1] for url in urls if (found := re.search(r"@([^:/]+)", url))]


def test_the_compose_file_has_no_fault():
    assert faults(COMPOSE) == []


@pytest.mark.parametrize(
    ("path", "key"), list(keys(COMPOSE)), ids=lambda each: "/".join(map(str, each)) if each else "-"
)
def test_one_misspelt_key_is_found(path, key):
    assert faults(misspelt(COMPOSE, path, key))


def test_the_ports_are_those_of_the_settings_and_only_on_loopback():
    ports = {LocalSettings.model_fields[name].default for name in ("port", "s3_port")}
    published = COMPOSE["services"]["pixtools"]["ports"]

    assert set(published) == {f"127.0.0.1:{port}:{port}" for port in ports}
    assert {int(port) for port in re.search(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)[1].split()} == ports
    assert all("ports" not in service for name, service in COMPOSE["services"].items() if name != "pixtools")
    assert COMPOSE["services"]["pixtools"]["environment"]["PIXTOOLS_S3_PUBLIC_URL"].endswith(":9000")


def test_valkey_has_the_limits_of_the_launcher():
    command = COMPOSE["services"]["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert (options["--maxmemory"], options["--maxmemory-policy"]) == (redis_server._MAX_MEMORY, redis_server._POLICY)


def test_a_stop_has_time_to_let_jobs_end():
    grace_s = 60 * int(COMPOSE["services"]["pixtools"]["stop_grace_period"].removesuffix("m"))

    assert grace_s >= Settings.model_fields["drain_timeout"].default.total_seconds() + 60


def test_the_versions_agree():
    assert COMPOSE["services"]["pixtools"]["image"] == f"pixtools:{PROJECT['version']}-cpu"
    images = set(re.findall(r"^FROM python:(\S+) AS", DOCKERFILE, re.MULTILINE))
    assert len(images) == 1
    version = tuple(map(int, images.pop().split("-")[0].split(".")[:2]))
    lowest = tuple(map(int, re.search(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()))
    assert version >= lowest
    stages = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    assert COMPOSE["services"]["pixtools"]["build"]["target"] in stages


def test_no_program_of_the_image_runs_as_root():
    last = {}
    for line in DOCKERFILE.splitlines():
        if line.startswith("FROM"):
            stage = line.split()[-1]
        if line.startswith("USER"):
            last[stage] = line.split()[1]
    assert last == {"cpu": "10001", "gpu": "10001"}


def test_secrets_come_from_the_environment():
    text = (ROOT / "compose.yaml").read_text()
    assert len(re.findall(r"\$\{\w+:\?set \w+ in the file \.env\}", text)) == 3
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".env", ".git", ".pixtools"} <= set(ignored)


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing():
    ended = lint(ROOT / "Dockerfile")
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("word", sorted(set(re.findall(r"^([A-Z]+) ", DOCKERFILE, re.MULTILINE))))
def test_a_misspelt_instruction_is_found(tmp_path, word):
    changed = tmp_path / "Dockerfile"
    changed.write_text(re.sub(rf"^{word} ", f"{word}X ", DOCKERFILE, count=1, flags=re.MULTILINE))
    assert lint(changed).returncode != 0
