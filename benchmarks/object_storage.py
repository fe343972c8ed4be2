"""Measures the CPU time that this process takes for one put and one get of an object, compared with boto3.

The benchmark starts the S3 server of `pixtools up`. It alternates between `BlobStore` and a client of boto3 that has
the same configuration. Machines and their load differ, so the result is the ratio.

    python benchmarks/object_storage.py --bytes 60000
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from pixtools.blob_store import BlobStore
from pixtools.local import s3_server
from pixtools.local.home import Home
from pixtools.local.ports import free_port
from pixtools.settings import Settings

CALLS = 40


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--bytes", "size", default=60_000, show_default=True)
@click.option("--rounds", default=9, show_default=True)
def main(size: int, rounds: int) -> None:
    """Run the benchmark and print its results."""
    with tempfile.TemporaryDirectory() as folder:
        server = s3_server.start(Home(Path(folder) / "home"), free_port())
        try:
            server.wait()
            there = {name.removeprefix("PIXTOOLS_").lower(): value for name, value in server.env.items()}
            blobs = BlobStore(Settings(database_url="postgresql://nowhere/x", redis_url="redis://nowhere/0", **there))
            compare(blobs, os.urandom(size), rounds)
        finally:
            server.stop()


def compare(blobs: BlobStore, data: bytes, rounds: int) -> None:
    """Alternate between both clients, and print the medians and their ratio."""
    boto3, bucket = blobs._s3, blobs._bucket  # noqa: SLF001 (the same configuration)

    def with_boto3(key: str) -> bytes:
        boto3.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data), ContentType="image/webp")
        return boto3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def with_blob_store(key: str) -> bytes:
        blobs.put(key, io.BytesIO(data), "image/webp")
        return blobs.get(key)

    times: dict[Callable[[str], bytes], list[float]] = {with_boto3: [], with_blob_store: []}
    for number in range(1 + rounds):  # the first round fills caches
        for client, found in times.items():
            started = time.process_time()
            for call in range(CALLS):
                assert client(f"artifacts/bench/{number}/{call}-{client.__name__}.webp") == data
            if number:
                found.append((time.process_time() - started) / CALLS)
    boto3_s, ours_s = (statistics.median(found) for found in times.values())
    ratios = [one / other for one, other in zip(*times.values(), strict=True)]
    click.echo(f"boto3 {boto3_s * 1000:.2f} ms, BlobStore {ours_s * 1000:.2f} ms of CPU time for a put and a get")
    click.echo(f"ratio {statistics.median(ratios):.1f} (rounds: {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
