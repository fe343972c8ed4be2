"""Deployments through the REST API of a Ray dashboard, whose answers come from a real HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pixtools.local import cluster as cluster_module
from pixtools.local.cluster import Cluster
from pixtools.local.local_error import LocalError
from pixtools.local.ports import free_port


@contextmanager
def dashboard(*statuses: int) -> Iterator[tuple[Cluster, list[str]]]:
    """Run a dashboard that answers with these statuses, one after the other. The last one stays."""
    answers, asked = list(statuses), []

    class Dashboard(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"answer")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Cluster(f"http://127.0.0.1:{server.server_port}", "token"), asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_dashboard_that_still_starts_is_asked_again():
    with dashboard(500, 503, 200) as (cluster, asked):
        cluster.deploy({"applications": []})

    assert asked == ["/api/serve/applications/"] * 3


def test_a_refusal_is_an_error_at_once():
    with dashboard(400) as (cluster, asked), pytest.raises(LocalError, match=r"refuses .*status 400.*answer"):
        cluster.deploy({})

    assert len(asked) == 1


def test_a_server_error_that_stays_is_an_error(monkeypatch):
    monkeypatch.setattr(cluster_module, "_DEPLOY_TIMEOUT_S", 1.0)
    with dashboard(500) as (cluster, asked), pytest.raises(LocalError, match=r"refuses .*status 500"):
        cluster.deploy({})

    assert len(asked) >= 2


def test_a_dashboard_that_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(cluster_module, "_DEPLOY_TIMEOUT_S", 0.0)
    with pytest.raises(LocalError, match="does not answer"):
        Cluster(f"http://127.0.0.1:{free_port()}", None).deploy({})
