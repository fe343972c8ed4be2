"""A backup of Postgres and of the bucket, as docs/operating.md describes: everything is lost and comes back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from api import Api
from stacks import running
from workload import PHOTO, WEBP_AND_ZIP, one_avif, titled

from pixtools.local import postgres_server, stores
from pixtools.local.home import Home

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
DOCS = (Path(__file__).parents[2] / "docs/operating.md").read_text()


def run(command: str, env: dict[str, str], folder: Path) -> None:
    """Run a command of the docs. In the docs, `pixtools-bucket:` and `backup-bucket:` are remotes of rclone."""
    assert command in DOCS
    source = env["PIXTOOLS_S3_ENDPOINT_URL"]
    remotes = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "Rclone",
        "RCLONE_CONFIG_STORE_ENDPOINT": source,
        "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": env["PIXTOOLS_S3_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": env["PIXTOOLS_S3_SECRET_ACCESS_KEY"],
        "PATH": f"{BIN}:{postgres_server._install()}/bin:/usr/bin:/bin",
    }
    shell = command.replace("pixtools-bucket:", "STORE:pixtools").replace("backup-bucket:", str(folder / "bucket"))
    ended = subprocess.run(
        ["sh", "-ec", shell], env=env | remotes, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_everything_is_lost_and_comes_back(open_folder, tmp_path):
    with (
        stores.running(Home(open_folder / "first")) as env,
        running(open_folder / "before", **env) as stack,
        Api(stack.base_url) as api,
    ):
        photos = {f"key-{number}": titled(PHOTO, f"backup {number}") for number in range(3)}
        jobs = {key: api.wait(api.submit("a.jpg", photo, WEBP_AND_ZIP, key=key)) for key, photo in photos.items()}
        files = {key: hashlib.sha256(api.download(job, "web")).digest() for key, job in jobs.items()}
        unfinished = api.submit("b.jpg", titled(PHOTO, "unfinished"), one_avif(0))
        run('pg_dump --format=custom --file=pixtools.dump "$PIXTOOLS_DATABASE_URL"', env, tmp_path)
        late = api.wait(api.submit("c.jpg", titled(PHOTO, "late"), {"web": {"op": "webp", "input": "source"}}))
        run("rclone copy pixtools-bucket: backup-bucket:", env, tmp_path)

    with stores.running(Home(open_folder / "second")) as env:  # nothing of the first stores is left
        restore = 'pg_restore --clean --if-exists --no-owner --dbname="$PIXTOOLS_DATABASE_URL" pixtools.dump'
        run(restore, env, tmp_path)
        run("rclone copy backup-bucket: pixtools-bucket:", env, tmp_path)
        with running(open_folder / "after", **env) as stack, Api(stack.base_url) as api:
            for key, job in jobs.items():
                back = api.read(job)
                assert (back["state"], back["steps"].keys()) == ("succeeded", job["steps"].keys())
                assert hashlib.sha256(api.download(back, "web")).digest() == files[key]
                assert api.submit("a.jpg", photos[key], WEBP_AND_ZIP, key=key)["id"] == job["id"]
            assert api.wait(unfinished, 180)["state"] == "succeeded"
            assert api.http.get(f"/api/jobs/{late['id']}").status_code == 404
