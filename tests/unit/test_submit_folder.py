"""`pixtools submit`: the folder, the journal, and a service that refuses, is busy, or is silent."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest

from serve import submit_folder
from serve.submit_folder import (
    FolderSubmission,
    JobTemplate,
    Journal,
    OutputInUse,
    ServiceBusy,
    find_pictures,
    output_folders,
)

FILE = b"a result"
TEMPLATE = JobTemplate('{"web": {}}')


def test_pictures_are_found_by_their_endings(tmp_path):
    out = tmp_path / "out"
    for name in ("b.jpg", "a/c.HEIC", "a/d.txt", "a/.hidden.jpg", ".git/e.jpg", "out/old.jpg", "no ending"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_pictures(tmp_path, out) == (["a/c.HEIC", "b.jpg"], 2)


def test_results_with_equal_names_go_to_different_folders():
    pictures = ["a/IMG_1.HEIC", "a/img_1.jpg", "a/other.jpg", "IMG_1.jpg"]
    assert output_folders(pictures) == {
        "a/IMG_1.HEIC": "a/IMG_1.HEIC", "a/img_1.jpg": "a/img_1.jpg", "a/other.jpg": "a", "IMG_1.jpg": "."
    }  # fmt: skip


class Service:
    """A service whose jobs succeed at once. `script` holds the first answers, or errors to raise."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.keys: list[str] = []
        self.jobs: dict[str, dict] = {}
        self.state = "succeeded"
        self.sha256 = hashlib.sha256(FILE).hexdigest()
        self.is_silent = self.is_full = False
        self.paths: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/operations":
            return httpx.Response(200, json={"limits": {"upload_bytes": 1_000}})
        self.paths.append(f"{request.method} {request.url.path}")
        if request.url.path == "/api/jobs":
            self.keys.append(request.headers["idempotency-key"])
        if self.is_full:
            return problem(503, "service_full", **{"Retry-After": "0"})
        if self.is_silent:
            raise httpx.ConnectError("gone")
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.url.path.endswith("/file"):
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            return httpx.Response(206, content=FILE[start : start + 3])
        if request.url.path == "/api/jobs":
            return httpx.Response(202, json=self.jobs.setdefault(self.keys[-1], self.job(f"job{len(self.jobs)}")))
        number = request.url.path.split("/")[3]
        found = [job for job in self.jobs.values() if job["id"] == number]
        return httpx.Response(200, json=self.job(number)) if found else problem(404, "not_found")

    def job(self, number: str) -> dict:
        artifact = {"name": "a-web.webp", "bytes": len(FILE), "sha256": self.sha256}
        made = {"artifact": artifact, "error": None}
        failed = {"artifact": None, "error": {"code": "corrupt_image", "detail": "It broke."}}
        return {"id": number, "state": self.state, "steps": {"web": made if self.state == "succeeded" else failed}}


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": f"{code}!", "errors": []}, headers=headers)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(submit_folder, "_PAUSE_S", 0.0)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"a photo")
    return tmp_path


def submit(folder, service):
    """Submit the pictures of a folder, and return the failures."""
    with (
        httpx.Client(transport=httpx.MockTransport(service), base_url="http://test") as client,
        Journal.open(folder / "out", TEMPLATE.digest) as journal,
    ):
        run = FolderSubmission(client, folder / "in", folder / "out", TEMPLATE, journal)
        names = find_pictures(folder / "in", folder / "out")[0]
        return [failure for failure in run.run(names, 2) if failure is not None]


def test_a_file_is_downloaded_in_parts_and_a_finished_picture_is_left_alone(folder):
    service = Service()
    assert submit(folder, service) == []
    assert (folder / "out" / "a-web.webp").read_bytes() == FILE
    assert service.paths.count("GET /api/jobs/job0/steps/web/file") == 3

    service.paths.clear()
    assert submit(folder, service) == []
    assert service.paths == []


def test_a_lost_result_is_downloaded_again_and_a_changed_picture_is_submitted_again(folder):
    service = Service()
    submit(folder, service)
    (folder / "out" / "a-web.webp").unlink()
    assert submit(folder, service) == []
    assert (folder / "out" / "a-web.webp").exists()
    assert len(service.jobs) == 1

    (folder / "in" / "a.jpg").write_bytes(b"another photo")
    assert submit(folder, service) == []
    assert len(service.jobs) == 2


@pytest.mark.parametrize(
    "busy",
    [
        problem(409, "idempotency_key_in_use", **{"Retry-After": "0"}),
        problem(429, "too_many_requests", **{"Retry-After": "0"}),
        problem(503, "service_full", **{"Retry-After": "0"}),
        httpx.ConnectError("gone"),
    ],
)
def test_a_busy_service_gets_the_same_request_again(folder, busy):
    service = Service(busy)
    assert submit(folder, service) == []
    assert len(service.keys) == 2
    assert len(set(service.keys)) == 1


def test_a_silent_service_ends_the_run_and_the_next_run_uses_the_same_key(folder, monkeypatch):
    monkeypatch.setattr(submit_folder, "_PATIENCE_S", 0.2)
    service = Service()
    service.is_silent = True
    with pytest.raises(ServiceBusy, match="gone"):
        submit(folder, service)
    service.is_silent = False
    assert submit(folder, service) == []
    assert len(set(service.keys)) == 1


def test_a_service_that_stays_full_ends_the_run(folder, monkeypatch):
    monkeypatch.setattr(submit_folder, "_PATIENCE_S", 0.2)
    service = Service()
    service.is_full = True
    with pytest.raises(ServiceBusy, match="service_full!"):
        submit(folder, service)


def test_a_refused_picture_fails_and_gets_another_key(folder):
    service = Service(problem(422, "invalid_plan"))
    (failure,) = submit(folder, service)
    assert (failure.name, failure.reason) == ("a.jpg", "invalid_plan!")
    assert submit(folder, service) == []
    assert len(set(service.keys)) == 2


def test_a_failed_job_is_retried_once_in_each_run(folder):
    service = Service()
    service.state = "failed"
    (failure,) = submit(folder, service)
    assert failure.reason == "Step web: It broke."

    service.state = "failed"
    service.paths.clear()
    (failure,) = submit(folder, service)
    assert service.paths == ["GET /api/jobs/job0", "POST /api/jobs/job0/retry"]
    # Somebody has redriven the job meanwhile: there is nothing to retry, but the job has not failed any more.
    service.state = "succeeded"
    assert submit(folder, service) == []
    assert len(service.jobs) == 1


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_a_cancelled_or_expired_job_is_replaced(folder, state):
    service = Service()
    submit(folder, service)
    (folder / "out" / "a-web.webp").unlink()
    service.state = state
    service.script = [httpx.Response(200, json=service.job("job0"))]
    service.state = "succeeded"
    assert submit(folder, service) == []
    assert len(service.jobs) == 2


def test_an_error_while_a_job_runs_fails_only_this_picture(folder):
    service = Service(
        httpx.Response(202, json={"id": "job0", "state": "queued", "steps": {}}), problem(500, "internal")
    )
    (failure,) = submit(folder, service)
    assert failure.reason == "internal!"


def test_a_server_error_at_the_submission_keeps_the_key(folder):
    service = Service(problem(500, "internal"))
    (failure,) = submit(folder, service)
    assert failure.reason == "internal!"
    assert submit(folder, service) == []
    assert len(set(service.keys)) == 1  # the job may have been made before the error


def test_a_damaged_file_is_not_kept(folder):
    service = Service()
    service.sha256 = "00" * 32
    (failure,) = submit(folder, service)
    assert "differ from those" in failure.reason
    assert [path.name for path in (folder / "out").iterdir()] == [".pixtools-submit.jsonl"]


def test_a_file_that_is_too_large_is_not_sent(folder):
    (folder / "in" / "a.jpg").write_bytes(bytes(1_001))
    service = Service()
    (failure,) = submit(folder, service)
    assert failure.reason == "The file has 1001 bytes, but the service accepts at most 1000."
    assert service.paths == []


def test_a_result_that_the_service_has_lost_is_made_again(folder):
    service = Service()
    submit(folder, service)
    (folder / "out" / "a-web.webp").unlink()
    lost = service.job("job0")
    lost["steps"]["web"] = {"artifact": None, "error": {"code": "artifact_lost", "detail": "It is lost."}}
    service.script = [httpx.Response(200, json=lost)]
    assert submit(folder, service) == []
    assert len(service.jobs) == 2

    service.script = [httpx.Response(202, json=lost)]
    (folder / "in" / "b.jpg").write_bytes(b"b")
    (failure,) = submit(folder, service)
    assert (failure.name, failure.reason) == ("b.jpg", "Step web: It is lost.")


def test_results_with_equal_names_do_not_overwrite_each_other(folder):
    (folder / "in" / "b.jpg").write_bytes(b"b")
    service = Service()  # which gives the same name to the results of both
    assert submit(folder, service) == []
    results = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.webp")}
    assert len(results) == 2
    assert "a-web.webp" in results
    assert results < {"a-web.webp", "a.jpg/a-web.webp", "b.jpg/a-web.webp"}
    # A later run knows which picture the file belongs to.
    (folder / "in" / "c.jpg").write_bytes(b"c")
    assert submit(folder, service) == []
    assert (folder / "out" / "c.jpg" / "a-web.webp").exists()


def test_results_of_other_runs_are_not_pictures(folder):
    (folder / "in" / "web").mkdir()
    (folder / "in" / "web" / ".pixtools-submit.jsonl").touch()
    (folder / "in" / "web" / "a-web.webp").touch()
    assert find_pictures(folder / "in", folder / "out") == (["a.jpg"], 0)


def test_a_torn_line_of_the_journal_is_ignored_and_other_steps_have_other_lines(folder):
    service = Service()
    submit(folder, service)
    journal = folder / "out" / ".pixtools-submit.jsonl"
    with journal.open("a") as file:
        file.write('{"picture": "a.j')
    assert submit(folder, service) == []
    assert len(service.jobs) == 1
    lines = [line for line in journal.read_text().splitlines() if line]
    assert [line for line in lines if not line.endswith("}")] == ['{"picture": "a.j']  # nothing was added to this line
    assert all(json.loads(line) for line in lines if line.endswith("}"))

    with (folder / "out" / ".pixtools-submit.jsonl").open("a+") as file:
        assert Journal(file, "other steps").last_entry("a.jpg", hashlib.sha256(b"a photo").hexdigest()) == {}


def test_two_runs_cannot_write_into_one_folder(folder):
    with Journal.open(folder / "out", "x"), pytest.raises(OutputInUse), Journal.open(folder / "out", "y"):
        pass
