"""A job can be followed by its ids: through the log lines of all processes, and as a trace of OpenTelemetry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from api import Api
from collector import collector
from images import photo, saved
from stacks import running
from waits import wait_for

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEPS = {
    "clean": {"op": "denoise", "input": "source"},
    "web": {"op": "webp", "input": "clean"},
    "facts": {"op": "metadata", "input": "source"},
}


@pytest.fixture(scope="module")
def spans():
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def service(open_folder, spans):
    with running(open_folder / "traced", PIXTOOLS_LOG_FORMAT="json", PIXTOOLS_TRACES_URL=spans.url) as stack:
        yield stack


@pytest.fixture(scope="module")
def job(service):
    """A job that has ended. Its request had an id and a trace."""
    noisy = photo(300, 200) + np.random.default_rng(5).normal(0, 15, (200, 300, 3))
    files = {"file": ("noisy.png", saved(noisy.clip(0, 255).astype(np.uint8), "PNG"))}
    headers = {"X-Request-ID": "request-7", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    with Api(service.base_url) as api:
        answer = api.http.post("/api/jobs", files=files, data={"steps": json.dumps(STEPS)}, headers=headers)
        ended = api.wait(answer.raise_for_status().json())
    assert ended["state"] == "succeeded"
    return ended


def log_lines(service):
    """Return the log lines in JSON of all processes."""
    paths = (service.ray_folder / "session_latest" / "logs").rglob("*.err")
    lines = [line for path in paths for line in path.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def test_log_lines_of_a_job_have_its_ids(service, job):
    def of_the_job():
        return [line for line in log_lines(service) if line.get("job_id") == job["id"]]

    wait_for(lambda: {"settled: state=succeeded"} <= {line["message"] for line in of_the_job()})
    lines = {line["message"].partition(":")[0]: line for line in of_the_job()}
    for message, logger in {"accepted": "serve.intake", "settled": "actors.outcome_writer"}.items():
        assert lines[message]["request_id"] == "request-7"
        assert (lines[message]["level"], lines[message]["logger"]) == ("INFO", logger)
        assert lines[message]["owner"] == "public"
    assert lines["settled"]["attempt"] == "1"


def test_the_trace_of_a_job_reaches_from_the_request_to_the_artifacts(job, spans):
    wait_for(lambda: {"POST /api/jobs", "attempt", "denoise", "segment"} <= {span.name for span in spans.spans})
    wait_for(lambda: len(spans.named("put artifact", TRACE)) == 3 and spans.named("attempt", TRACE))
    (request,) = spans.named("POST /api/jobs", TRACE)
    assert (request.process, request.parent) == ("ingress", CALLER)
    assert spans.named("put source", TRACE)[0].parent == request.id
    (attempt,) = spans.named("attempt", TRACE)
    assert (attempt.process, attempt.parent) == ("dispatcher", request.id)
    assert (attempt.attributes["job_id"], attempt.attributes["request_id"]) == (job["id"], "request-7")
    (denoise,) = spans.named("denoise", TRACE)
    assert (denoise.process, denoise.parent, denoise.attributes["pixels"]) == ("denoiser", attempt.id, "60000")
    segments = spans.named("segment", TRACE)
    assert {segment.parent for segment in segments} == {attempt.id}
    assert {segment.process for segment in segments} == {"converter"}
    steps = spans.named("step", TRACE)
    assert {step.attributes["step"] for step in steps} == set(STEPS)
    assert {step.parent for step in steps} <= {segment.id for segment in segments}
    files = spans.named("put artifact", TRACE)
    assert {file.attributes["step"]: int(file.attributes["bytes"]) for file in files} == {
        name: step["artifact"]["bytes"] for name, step in job["steps"].items()
    }
    assert all(0 <= span.seconds < 120 for span in spans.spans)


def test_reads_are_not_traced(service, spans):
    other = TRACE[::-1]
    headers = {"traceparent": f"00-{other}-{CALLER}-01"}
    with Api(service.base_url) as api:
        api.http.get("/api/jobs", headers=headers).raise_for_status()
        assert api.http.post("/api/jobs", headers=headers).status_code == 400
    wait_for(lambda: spans.named("POST /api/jobs", other))  # both requests were answered by the same process
    assert [span.name for span in spans.spans if span.trace == other] == ["POST /api/jobs"]
