"""The running service refuses foreign hosts and foreign pages, and slow or greedy clients do not stop the others."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import yaml
from api import Api
from chromium import chromium, needs_chromium
from page_driver import photo
from process_titles import title_of
from sideways import sideways_photo

STEPS = {"web": {"op": "webp", "input": "source"}}
FORM = {"operations": '["webp"]'}


@pytest.mark.parametrize("path", ["/", "/api/jobs", "/static/main.js", "/-/routes"])
def test_a_foreign_host_is_refused(api, path):
    answer = api.http.get(path, headers={"Host": "evil.example"})

    assert (answer.status_code, answer.json()["code"]) == (421, "foreign_host")


def test_a_foreign_origin_cannot_submit(api):
    name = f"{uuid.uuid4()}.jpg"
    files = {"file": (name, sideways_photo(60, 40, seed=981))}
    answer = api.http.post("/api/jobs", files=files, data=FORM, headers={"Origin": "http://evil.example"})

    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert name not in api.http.get("/api/jobs").text


def test_a_json_body_without_a_length_is_cut_off_at_its_limit(api):
    def endless():
        for _ in range(1000):
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    answer = api.http.post("/api/dead-letters/discard", content=endless(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_headers_that_are_too_large_are_refused(api):
    answer = api.http.get("/api/livez", headers={"X": "x" * 40_000})

    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


def test_answers_with_download_urls_are_never_stored(api):
    job = api.wait(api.submit("a.jpg", sideways_photo(60, 40, seed=982), STEPS))
    answers = [
        api.http.get(f"/api/jobs/{job['id']}"),
        api.http.get("/api/jobs"),
        api.http.post(f"/api/jobs/{job['id']}/cancel"),
        api.post("a.jpg", sideways_photo(60, 40, seed=982), operations='["webp"]'),
        api.http.get(f"/api/jobs/{job['id']}/events"),
    ]

    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 5


def test_pictures_come_only_from_the_bucket_of_the_service(api, stack):
    headers = api.http.get("/").headers
    (pictures,) = [rule for rule in headers["content-security-policy"].split("; ") if rule.startswith("img-src")]

    assert pictures == f"img-src 'self' blob: data: http://127.0.0.1:{stack.s3_port}/pixtools/"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"


def test_two_hundred_half_sent_submissions_do_not_stop_others(api, stack):
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost:{stack.port}\r\nContent-Length: 25000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    ).encode()
    with ExitStack() as attack:
        for number in range(200):
            source = (f"127.0.2.{number // 20 + 1}", 0)
            half = attack.enter_context(socket.create_connection(("127.0.0.1", stack.port), 30, source))
            half.sendall(head)
        assert api.http.get("/api/livez").json() == {"live": True}
        small = api.submit("a.jpg", sideways_photo(60, 40, seed=983), STEPS)
        large = {**STEPS, "none": {"op": "metadata", "input": "source"}}
        padded = api.submit("b.jpg", sideways_photo(60, 40, seed=984) + bytes(3_000_000), large)
        assert api.wait(small)["state"] == "succeeded"
        assert api.wait(padded)["state"] == "succeeded"


def test_slow_headers_do_not_stop_others(api, stack):
    with ExitStack() as attack:
        for number in range(200):
            source = (f"127.0.3.{number // 50 + 1}", 0)
            slow = attack.enter_context(socket.create_connection(("127.0.0.1", stack.port), 30, source))
            slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert api.http.get("/api/livez").json() == {"live": True}
        slow.settimeout(60)
        assert slow.recv(1) == b""  # the service closes the connection


QUEUE = """
import asyncio
from ray import serve

@serve.deployment(max_ongoing_requests=1, max_queued_requests=1, ray_actor_options={"num_cpus": 0})
class Slow:
    async def __call__(self, request):
        if request.url.path == "/api/slow":
            await asyncio.sleep(5)
        return "ready"

slow = Slow.bind()
"""


def test_large_uploads_at_the_same_time_take_little_memory(stack):
    # The service refuses this JPEG because of the junk in its header, so it creates no jobs.
    junk = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\xc4" * 24_000_000
    idle = peak = memory_of_http(stack)

    url = stack.base_url
    with Api(url, "127.0.4.1") as one, Api(url, "127.0.4.2") as two, ThreadPoolExecutor(12) as pool:
        uploads = [pool.submit(api.post, "junk.jpg", junk, **FORM) for api in (one, two) for _ in range(6)]
        while not all(upload.done() for upload in uploads):
            peak = max(peak, memory_of_http(stack))
            time.sleep(0.1)

    assert [upload.result().status_code for upload in uploads] == [422] * 12
    assert peak - idle < 100_000_000  # twelve whole bodies would have 288 MB


def memory_of_http(stack) -> int:
    """Return the private memory of HAProxy, of Serve's proxy and of the ingress in bytes."""
    parts = ("ray::ProxyActor", "ray::ServeReplica:pixtools:ingress", "/haproxy -db")
    return sum(process.memory_full_info().uss for process in stack.processes() if is_part(process, parts))


def is_part(process, parts: tuple[str, ...]) -> bool:
    return any(part in title_of(process) for part in parts)


def test_a_full_queue_of_serve_is_answered_with_a_problem(new_stack, open_folder):
    folder = open_folder / "queue"
    folder.mkdir()
    (folder / "queue_app.py").write_text(QUEUE)
    application = {"name": "pixtools", "route_prefix": "/", "import_path": "queue_app:slow"}
    (folder / "queue.yaml").write_text(yaml.safe_dump({"applications": [application]}))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    small = new_stack(extra_env={"PYTHONPATH": path})
    small.launch("--config", folder / "queue.yaml")
    small.wait_until_ready()

    with ThreadPoolExecutor(10) as clients:
        get = lambda _: httpx.get(f"{small.base_url}/api/slow", timeout=120)  # noqa: E731
        answers = list(clients.map(get, range(10)))

    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 10
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "2"
    assert small.stop() == 0


# A page of another origin, in a real browser


class ForeignPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>A foreign page</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def foreign_port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    """A browser that finds the host evil.example on this machine."""
    with chromium("--disable-background-networking", "--host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture(params=["evil.example", "127.0.0.1"], ids=["another site", "another port"])
def foreign(browser, foreign_port, request):
    """A page of another origin. `page.statuses` collects the path and the status of each answer that arrives."""
    context = browser.new_context()
    page = context.new_page()
    page.statuses = []
    page.on("response", lambda answer: page.statuses.append((httpx.URL(answer.url).path, answer.status)))
    page.goto(f"http://{request.param}:{foreign_port}/")
    page.statuses.clear()
    yield page
    context.close()


SUBMIT = """async ([url, name, data]) => {
  const form = new FormData();
  form.append("operations", '["webp"]');
  form.append("file", await (await fetch(`data:image/jpeg;base64,${data}`)).blob(), name);
  await fetch(`${url}/api/jobs`, {method: "POST", mode: "no-cors", body: form});
}"""

SUBMIT_FORM = """([url, name]) => {
  const form = document.createElement("form");
  Object.assign(form, {action: `${url}/api/jobs`, method: "POST", enctype: "multipart/form-data"});
  const steps = document.createElement("input");
  Object.assign(steps, {name: "operations", value: '["webp"]'});
  const file = document.createElement("input");
  Object.assign(file, {type: "file", name: "file"});
  const chosen = new DataTransfer();
  chosen.items.add(new File(["no picture"], name));
  file.files = chosen.files;
  form.append(steps, file);
  document.body.append(form);
  form.submit();
}"""


@needs_chromium
def test_a_foreign_page_cannot_submit(foreign, stack, api):
    image, name = photo(985), f"{uuid.uuid4()}.jpg"
    foreign.evaluate(SUBMIT, [stack.base_url, name, base64.b64encode(image["buffer"]).decode()])
    assert foreign.statuses[-1] == ("/api/jobs", 403)

    with foreign.expect_navigation():
        foreign.evaluate(SUBMIT_FORM, [stack.base_url, name])
    assert foreign.statuses[-1] == ("/api/jobs", 403)
    assert name not in api.http.get("/api/jobs").text


@needs_chromium
def test_a_foreign_page_can_neither_cancel_nor_read(foreign, stack, api):
    job = api.submit("a.jpg", sideways_photo(300, 200, seed=986), STEPS)
    url = f"{stack.base_url}/api/jobs/{job['id']}"
    foreign.evaluate("url => fetch(url, {method: 'POST', mode: 'no-cors'})", f"{url}/cancel")
    assert foreign.statuses[-1] == (f"/api/jobs/{job['id']}/cancel", 403)
    assert api.wait(job)["state"] == "succeeded"

    read = "url => fetch(url).then(answer => answer.text(), () => 'refused')"
    assert foreign.evaluate(read, url) == "refused"
    foreign.evaluate("url => fetch(url, {mode: 'no-cors'})", url)
    assert foreign.statuses[-1] == (f"/api/jobs/{job['id']}", 403)
    listen = """url => new Promise(resolve => {
      const events = new EventSource(url);
      events.onerror = () => { events.close(); resolve("refused"); };
      events.addEventListener("job", () => { events.close(); resolve("an event"); });
    })"""
    assert foreign.evaluate(listen, f"{url}/events") == "refused"
    script = """url => new Promise(resolve => {
      const script = document.createElement("script");
      Object.assign(script, {src: url, onload: () => resolve("loaded"), onerror: () => resolve("refused")});
      document.body.append(script);
    })"""
    assert foreign.evaluate(script, f"{stack.base_url}/static/docs.js") == "refused"


@needs_chromium
def test_a_foreign_name_of_this_machine_reads_nothing(browser, stack):
    """An attacker may let its own host name point to loopback. For the browser, the service then has that origin."""
    context = browser.new_context()
    page = context.new_page()
    for path in ("/", "/api/jobs"):
        answer = page.goto(f"http://evil.example:{stack.port}{path}")
        assert (answer.status, answer.json()["code"]) == (421, "foreign_host")
    context.close()


@needs_chromium
def test_the_page_follows_a_job_although_it_must_wait(browser, stack, api):
    """429 and 408 say nothing about the job, so the page asks again."""
    job = api.wait(api.submit("a.jpg", sideways_photo(60, 40, seed=987), STEPS))
    problem = json.dumps(
        {"title": "Too many", "detail": "Wait.", "status": 429, "code": "too_many_requests", "errors": []}
    )
    context = browser.new_context()
    page = context.new_page()
    page.route(
        f"**/api/jobs/{job['id']}",
        lambda route: route.fulfill(status=429, content_type="application/problem+json", body=problem),
        times=1,
    )
    page.goto(f"{stack.base_url}/#/jobs/{job['id']}")
    page.locator("#job-state", has_text="succeeded").wait_for(timeout=60_000)
    context.close()
