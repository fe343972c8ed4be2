"""A picture runs code in the processes that read pictures. The code finds no secret and reaches no server."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from api import Api
from attacker import DECODING, READING
from images import photo, saved
from stacks import running

FOLDER = Path(__file__).parent
PHOTO = saved(photo(64, 48), "PNG")


@pytest.fixture(scope="module")
def attacked(open_folder):
    """A service in which certain files run the code of tests/attacker.py."""
    path = [str(FOLDER / "attacked"), str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with running(open_folder / "attacked", PYTHONPATH=os.pathsep.join(path), MY_SECRET="of the user") as stack:
        yield stack


@pytest.fixture
def targets(attacked) -> bytes:
    """The arguments of `loot`: every port on which the service listens, and every file with a secret."""
    urls = [attacked.env[f"PIXTOOLS_{name}_URL"] for name in ("DATABASE", "REDIS", "S3_ENDPOINT")]
    ports = {urlsplit(url).port for url in urls}
    for process in attacked.processes():
        with suppress(psutil.NoSuchProcess):  # workers come and go
            ports |= {each.laddr.port for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    secrets = [str(path) for path in (attacked.home / "secrets").iterdir()]
    assert len(ports) > 5
    assert len(secrets) > 3
    return json.dumps({"ports": sorted(ports), "files": secrets}).encode()


def test_a_decoder_that_runs_code_of_a_picture_finds_nothing(attacked, targets):
    with Api(attacked.base_url) as api:
        job = api.wait(api.submit("a.png", PHOTO + DECODING + targets, {"web": {"op": "webp", "input": "source"}}))

        assert job["steps"]["web"]["error"]["code"] == "corrupt_image"
        assert json.loads(job["steps"]["web"]["error"]["detail"]) == {}
        good = api.wait(api.submit("b.png", PHOTO, {"web": {"op": "webp", "input": "source"}}))
        assert good["state"] == "succeeded"


def test_a_reader_of_headers_that_runs_code_of_a_picture_finds_nothing(attacked, targets):
    with Api(attacked.base_url) as api:
        answer = api.post("a.png", PHOTO + READING + targets, operations='["webp"]')

    assert (answer.status_code, answer.json()["code"]) == (422, "corrupt_image")
    assert json.loads(answer.json()["detail"]) == {}
