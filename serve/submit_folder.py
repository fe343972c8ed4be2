"""Submits the pictures of a folder to the service, and writes the results into another folder.

A journal in the output folder makes it possible to continue a run that was killed. The journal holds an idempotency key
for each picture before the picture is sent. So no picture makes two jobs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import IO, Any

import httpx

from pixtools.errors import ArtifactLost, KeyInUse, NotFound, NothingToRetry
from serve.problem_text import problem_text

JOURNAL = ".pixtools-submit.jsonl"

_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".png", ".apng", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif"),
}
_WAIT_S = 30  # seconds that one request waits for the end of a job
_PATIENCE_S = 300.0  # longest time without a request that the service handles
_PAUSE_S = 1.0
_BUSY = (429, 503)

Entry = dict[str, Any]
Job = dict[str, Any]


class OutputInUse(Exception):
    """Another run writes into the same folder."""


class ServiceBusy(Exception):
    """The service handled no request of this run for five minutes: it was silent, full or busy."""


class _Refused(Exception):
    """The service has refused a request about one picture, or a file has arrived damaged."""


@dataclass(frozen=True)
class Failure:
    """A picture without all of its results, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class JobTemplate:
    """The part of each request that is the same for all pictures: `steps` in JSON, and further files by name."""

    steps: str
    parts: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of the steps and the parts."""
        parts = {name: hashlib.sha256(data).hexdigest() for name, data in self.parts.items()}
        return hashlib.sha256(json.dumps([self.steps, parts], sort_keys=True).encode()).hexdigest()


def find_pictures(folder: Path, without: Path) -> tuple[list[str], int]:
    """Return the pictures of a folder and its subfolders, as sorted relative paths, and the number of other files.

    A file is a picture if the ending of its name says so. Hidden files and folders, the folder `without`, and the
    results of other runs do not count. Raises OSError if a folder cannot be read.
    """

    def is_searched(path: Path) -> bool:
        return path.name[0] != "." and path.resolve() != excluded and not (path / JOURNAL).exists()

    pictures, others = [], 0
    excluded = without.resolve()
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if is_searched(Path(parent, name))]
        for name in names:
            if Path(name).suffix.lower() in _SUFFIXES and name[0] != ".":
                pictures.append(Path(parent, name).relative_to(folder).as_posix())
            elif name[0] != ".":
                others += 1
    return sorted(pictures), others


def _raise(error: OSError) -> None:
    raise error


def output_folders(pictures: list[str]) -> dict[str, str]:
    """Return the folder for the results of each picture, relative to the output folder.

    The results of `a/b.jpg` go to the folder `a`. If there is also `a/b.heic`, their results would have the same names,
    so they go to `a/b.jpg` and `a/b.heic`.
    """
    stems: dict[str, int] = {}
    for name in pictures:
        stem = str(PurePosixPath(name).with_suffix("")).lower()
        stems[stem] = stems.get(stem, 0) + 1
    return {
        name: name if stems[str(PurePosixPath(name).with_suffix("")).lower()] > 1 else str(PurePosixPath(name).parent)
        for name in pictures
    }


class Journal:
    """The progress of each picture, as lines of JSON. The last line about a picture counts.

    An entry has `key` (the picture was perhaps sent), `job` (it was accepted), `job` and `failed`, `job` and `files`
    (it is done), or none of these (it was refused).
    """

    def __init__(self, file: IO[str], work: str) -> None:
        """`file` is open for reading and appending. `work` is the digest of the steps: other lines are ignored."""
        self._file = file
        self._work = work
        self._lock = Lock()
        self._entries: dict[tuple[str, str], Entry] = {}
        file.seek(0)
        for line in file.read().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if entry["work"] == work:
                self._entries[entry["picture"], entry["sha256"]] = entry

    def last_entry(self, picture: str, sha256: str) -> Entry:
        """Return the last entry about a picture with this content, or an empty one."""
        return self._entries.get((picture, sha256), {})

    def files(self) -> dict[str, str]:
        """Return the picture of each result, by the path of the result."""
        return {path: picture for (picture, _), entry in self._entries.items() for path in entry.get("files", ())}

    def write(self, picture: str, sha256: str, **facts: Any) -> None:
        """Append an entry."""
        entry = {"picture": picture, "sha256": sha256, "work": self._work, **facts}
        with self._lock:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            self._entries[picture, sha256] = entry

    @classmethod
    @contextmanager
    def open(cls, folder: Path, work: str) -> Iterator[Journal]:
        """Open the journal of an output folder. Raises OutputInUse."""
        with (folder / JOURNAL).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputInUse(f"Another run writes into {folder}. Wait until it has ended.") from error
            file.seek(0, os.SEEK_END)
            if file.tell():  # end a line that a killed run has not completed; empty lines are ignored
                file.write("\n")
            yield cls(file, work)


class FolderSubmission:
    """Submits pictures of `folder` with a client of `serve.ray_client`, and writes the results into `out`."""

    def __init__(self, client: httpx.Client, folder: Path, out: Path, template: JobTemplate, journal: Journal) -> None:
        self._client = client
        self._folder = folder
        self._out = out
        self._template = template
        self._journal = journal
        self._pictures = journal.files()  # by the path of each result
        self._lock = Lock()
        self._stopped = Event()
        self._max_bytes = 0
        self._answered_at = time.monotonic()  # when the service last handled a request of this run

    def run(self, pictures: list[str], at_once: int) -> Iterator[Failure | None]:
        """Submit all pictures, `at_once` at a time. Yield None for each picture that is done, or its failure.

        Raises ServiceBusy if the service handles no request for five minutes.
        """
        self._max_bytes = self._request("GET", "/api/operations").json()["limits"]["upload_bytes"]
        folders = output_folders(pictures)
        pool = ThreadPoolExecutor(at_once)
        try:
            waiting = iter(pictures)
            running: set[Future[Failure | None]] = set()
            while True:
                for name in islice(waiting, at_once - len(running)):
                    running.add(pool.submit(self._handle, name, self._out / folders[name]))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _handle(self, name: str, folder: Path) -> Failure | None:
        """Bring one picture to its end. Return its failure, or None."""
        try:
            sha256, job = self._submitted(name)
            if job is None:
                return None
            job = self._ended(job)
            files = self._download(name, job, folder)
        except (OSError, _Refused) as error:
            return Failure(name, str(error))
        errors = _errors(job)
        if job["state"] == "succeeded" and not errors:
            self._journal.write(name, sha256, job=job["id"], files=files)
            return None
        self._journal.write(name, sha256, job=job["id"], failed=True)
        details = [f"Step {step}: {error['detail']}" for step, error in errors.items()]
        return Failure(name, " ".join(details) or f"The job is {job['state']}.")

    def _submitted(self, name: str) -> tuple[str, Job | None]:
        """Return the digest of a picture, and its job. If there is no job yet, submit the picture.

        The job is None if all results have been downloaded. Raises _Refused, and OSError if the picture cannot be read.
        """
        path = self._folder / name
        if (size := path.stat().st_size) > self._max_bytes:
            raise _Refused(f"The file has {size} bytes, but the service accepts at most {self._max_bytes}.")
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        entry = self._journal.last_entry(name, sha256)
        if self._is_complete(entry):
            return sha256, None
        return sha256, self._job_of(entry) or self._new_job(name, data, sha256, entry)

    def _is_complete(self, entry: Entry) -> bool:
        """Return whether all files of an entry still exist with their sizes."""
        files = entry.get("files")
        return files is not None and all(_size_of(self._out / path) == size for path, size in files.items())

    def _job_of(self, entry: Entry) -> Job | None:
        """Return the job of an entry. Return None if the picture must be submitted again.

        If the job failed in an earlier run, the service runs the failed steps again. Raises _Refused.
        """
        if "job" not in entry:
            return None
        answer = self._request("GET", f"/api/jobs/{entry['job']}")
        if answer.status_code == NotFound.status:
            return None
        job = _accepted(answer)
        if job["state"] in ("cancelled", "expired") or ArtifactLost.code in {e["code"] for e in _errors(job).values()}:
            return None
        if entry.get("failed") and job["state"] in ("partial", "failed"):
            retried = self._request("POST", f"/api/jobs/{job['id']}/retry")
            return _accepted(retried) if _code(retried) != NothingToRetry.code else job
        return job

    def _new_job(self, name: str, data: bytes, sha256: str, entry: Entry) -> Job:
        """Submit a picture. Raises _Refused."""
        # An entry with a key is from a run that was killed before it got the answer.
        key = entry.get("key") or str(uuid.uuid4())
        self._journal.write(name, sha256, key=key)
        files = {"file": (PurePosixPath(name).name.encode(errors="replace").decode(), data)}
        parts = {part: (part, content) for part, content in self._template.parts.items()}
        form = {"steps": self._template.steps}
        answer = self._request("POST", "/api/jobs", files=files | parts, data=form, headers={"Idempotency-Key": key})
        if 400 <= answer.status_code < 500:  # noqa: PLR2004 (after another error, perhaps there is a job)
            self._journal.write(name, sha256)  # the next run sends another request, so it needs another key
        job = _accepted(answer)
        self._journal.write(name, sha256, job=job["id"])
        return job

    def _ended(self, job: Job) -> Job:
        """Wait until a job has ended, and return it. Raises _Refused."""
        while job["state"] in ("queued", "running"):
            if self._stopped.is_set():
                raise ServiceBusy("The run was stopped.")
            job = _accepted(self._request("GET", f"/api/jobs/{job['id']}", headers={"Prefer": f"wait={_WAIT_S}"}))
            # If too many requests wait, the service answers at once.
            if job["state"] in ("queued", "running"):
                self._stopped.wait(_PAUSE_S)
        return job

    def _request(self, method: str, url: str, **content: Any) -> httpx.Response:
        """Send a request. Send it again if the service is silent, full or busy. Raises ServiceBusy."""
        began = time.monotonic()
        while True:
            pause_s = _PAUSE_S
            try:
                answer = self._client.request(method, url, **content)
            except httpx.TransportError as error:
                last = str(error)
            else:
                if answer.status_code not in _BUSY and _code(answer) != KeyInUse.code:
                    self._answered_at = time.monotonic()
                    return answer
                last = problem_text(answer)
                pause_s = float(answer.headers.get("Retry-After", _PAUSE_S))
            # While the service handles other requests of this run, this one goes on waiting.
            if self._stopped.is_set() or time.monotonic() > max(began, self._answered_at) + _PATIENCE_S:
                raise ServiceBusy(f"The service did not handle a request for {_PATIENCE_S:g} s: {last}")
            self._stopped.wait(pause_s)

    def _download(self, name: str, job: Job, folder: Path) -> dict[str, int]:
        """Write the files of a job into `folder`. Return their sizes by path, relative to the output folder.

        Raises _Refused, and OSError if a file cannot be written.
        """
        files = {}
        for step, made in job["steps"].items():
            if (artifact := made["artifact"]) is not None:
                path = self._path(name, folder / PurePosixPath(artifact["name"]).name)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._write(path, job["id"], step, artifact)
                files[path.relative_to(self._out).as_posix()] = artifact["bytes"]
        return files

    def _path(self, name: str, wanted: Path) -> Path:
        """Return the path for a result of the picture `name`.

        This is `wanted`. If another picture has a result there, it is a path in a folder for this picture alone.
        """
        with self._lock:
            owner = self._pictures.setdefault(wanted.relative_to(self._out).as_posix(), name)
        return wanted if owner == name else self._out / name / wanted.name

    def _write(self, path: Path, job_id: str, step: str, artifact: dict[str, Any]) -> None:
        """Download the file of a step. It has another name until it is complete."""
        unfinished = path.with_name(f".{path.name}.part")
        digest = hashlib.sha256()
        with unfinished.open("wb") as file:
            start = 0
            while start < artifact["bytes"]:
                url, head = f"/api/jobs/{job_id}/steps/{step}/file", {"Range": f"bytes={start}-"}
                answer = self._request("GET", url, headers=head)
                if not answer.is_success:
                    raise _Refused(f"step {step}: {problem_text(answer)}")
                start += len(answer.content)
                digest.update(answer.content)
                file.write(answer.content)
        if digest.hexdigest() != artifact["sha256"]:
            unfinished.unlink()
            raise _Refused(f"step {step}: the downloaded bytes differ from those that the service has stored.")
        unfinished.replace(path)


def _accepted(answer: httpx.Response) -> Job:
    """Return the job in an answer. Raises _Refused if the answer is an error."""
    if not answer.is_success:
        raise _Refused(problem_text(answer))
    job: Job = answer.json()
    return job


def _code(answer: httpx.Response) -> str | None:
    """Return the code of a problem. Return None for any other answer."""
    try:
        return str(answer.json()["code"]) if answer.is_error else None
    except (ValueError, KeyError, TypeError):
        return None


def _errors(job: Job) -> dict[str, dict[str, Any]]:
    """Return the errors of the steps of a job, by step."""
    return {name: step["error"] for name, step in job["steps"].items() if step["error"] is not None}


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
