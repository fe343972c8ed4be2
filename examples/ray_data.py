"""Make thumbnails of a folder with Ray Data, without the service.

    python examples/ray_data.py PHOTOS RESULTS

Needs `pip install 'pixtools[data]'`. Set RAY_ADDRESS to use a cluster on whose nodes PixTools is installed.
"""

import sys
from pathlib import Path

import ray

from pixtools.pipeline import Pipeline


class Thumbnails:
    def __init__(self) -> None:
        small = {"op": "resize", "input": "source", "width": 320}
        self.pipeline = Pipeline({"small": small, "thumb": {"op": "webp", "input": "small"}})

    def __call__(self, row: dict) -> dict:
        file = self.pipeline.run(row["bytes"], row["path"])["thumb"]
        return {"path": row["path"], "data": file.data}


def main(photos: str, results: str) -> None:
    thumbnails = ray.data.read_binary_files(photos, include_paths=True).map(Thumbnails, concurrency=(1, 8))
    for row in thumbnails.iter_rows():
        file = Path(results, Path(row["path"]).relative_to(Path(photos).resolve())).with_suffix(".webp")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["data"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
