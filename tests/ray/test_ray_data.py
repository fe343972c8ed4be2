"""examples/ray_data.py: a pipeline of Ray Data on a Ray cluster of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from images import opened
from sideways import sideways_photo

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_data.py"
PHOTOS = 1000


def test_a_thousand_photos_become_thumbnails(tmp_path):
    photos, results = tmp_path / "photos", tmp_path / "results"
    photos.mkdir()
    for number in range(PHOTOS):
        (photos / str(number % 2)).mkdir(exist_ok=True)
        (photos / str(number % 2) / f"photo-{number:04}.jpg").write_bytes(sideways_photo(96, 64, seed=number))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, EXAMPLE, photos, results],
        env=environment | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    made = {path.relative_to(results).as_posix() for path in results.rglob("*.webp")}
    assert made == {f"{number % 2}/photo-{number:04}.webp" for number in range(PHOTOS)}
    assert opened((results / "1" / "photo-0999.webp").read_bytes()).format == "WEBP"
