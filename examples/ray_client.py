"""Submit the JPEGs of a folder through Ray, and download the results. Run it again to continue.

    python examples/ray_client.py ray://127.0.0.1:10001 PHOTOS RESULTS

The token of the cluster comes from RAY_AUTH_TOKEN_PATH. `pixtools submit` does more: it keeps a journal, and runs
several jobs at a time.
"""

import hashlib
import json
import sys
from pathlib import Path

from serve.ray_client import connect

STEPS = {
    "small": {"op": "resize", "input": "source", "width": 640},
    "web": {"op": "webp", "input": "small", "quality": 80},
}


def main(address: str, photos: Path, results: Path) -> None:
    results.mkdir(parents=True, exist_ok=True)
    with connect(address) as client:  # a client of httpx: everything in the HTTP API works
        jobs = []
        for photo in sorted(photos.glob("*.jpg")):
            data, steps = photo.read_bytes(), json.dumps(STEPS)
            # With the same key, the service returns the job that it made before.
            key = hashlib.sha256(f"{photo.name}\n{steps}\n".encode() + data).hexdigest()
            answer = client.post(
                "/api/jobs",
                files={"file": (photo.name, data)},
                data={"steps": steps},
                headers={"Idempotency-Key": key},
            )
            jobs.append(answer.raise_for_status().json())
        for done, submitted in enumerate(jobs, 1):
            job = submitted
            while job["state"] in ("queued", "running"):
                job = client.get(f"/api/jobs/{job['id']}", headers={"Prefer": "wait=30"}).raise_for_status().json()
            if artifact := job["steps"]["web"]["artifact"]:
                content = b""
                while len(content) < artifact["bytes"]:  # one answer holds up to 8 MB
                    part = client.get(
                        f"/api/jobs/{job['id']}/steps/web/file", headers={"Range": f"bytes={len(content)}-"}
                    )
                    content += part.raise_for_status().content
                (results / artifact["name"]).write_bytes(content)
            print(f"{done} of {len(jobs)}: {job['source']['name']} {job['state']}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
