"""Prometheus reads the metrics of a running service, as docs/monitoring.md describes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import yaml
from receivers import receiver
from sideways import sideways_photo
from waits import wait_for

from pixtools.local.ports import free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/monitoring"
PROMETHEUS = shutil.which("prometheus", path=ROOT / "build/prometheus/usr/bin") or shutil.which("prometheus")

# A service without faults does not count these.
RARE = {
    "ray_pixtools_rescued_total",
    "ray_pixtools_artifacts_lost_total",
    "ray_pixtools_orphans_total",
    "ray_pixtools_dead_letters_forgotten_total",
}


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in (ROOT / "docs/monitoring.md").read_text().splitlines() if "| `" in line]
    return set(re.findall(r"(?:ray_)?pixtools_\w+", " ".join(rows)))


class Prometheus:
    """A running Prometheus, with the configuration of the project."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=30, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def answers(self) -> bool:
        try:
            return self._http.get("/status/runtimeinfo").is_success
        except httpx.TransportError:
            return False

    def names(self) -> set[str]:
        """Return the names of all series of PixTools, with one name for each histogram."""
        names = self._http.get("/label/__name__/values").json()["data"]
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if "pixtools_" in name}

    def query(self, expression: str) -> list[dict]:
        answer = self._http.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def number(self, expression: str) -> float:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture
def prometheus(stack, tmp_path) -> Iterator[Prometheus]:
    if PROMETHEUS is None:
        pytest.skip("Prometheus is not installed: `make tools`")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    service, ray = config["scrape_configs"]
    service["static_configs"] = [{"targets": [f"127.0.0.1:{stack.port}"]}]
    ray["file_sd_configs"] = [{"files": [str(stack.ray_folder / "prom_metrics_service_discovery.json")]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with closing(Prometheus(f"http://127.0.0.1:{port}")) as running:
            wait_for(running.answers, 30)
            yield running
    finally:
        process.terminate()
        process.wait(30)


def run_everything(api, url: str) -> None:
    """Run jobs that succeed, are cached, fail, and are redriven, discarded, denoised and announced."""
    photo = sideways_photo(300, 200, seed=time.monotonic_ns())
    steps = {
        "clean": {"op": "denoise", "input": "source", "noise": "any"},
        "web": {"op": "webp", "input": "source"},
    }
    for _ in range(2):  # the second job finds the artifacts of the first one
        job = api.post("a.jpg", photo, steps=json.dumps(steps), webhook_url=url).json()
        assert api.wait(job)["state"] == "succeeded"
    for action in ("redrive", "discard"):
        broken = photo[: len(photo) * 2 // 3] + action.encode()
        job = api.wait(api.submit("broken.jpg", broken, {"web": {"op": "webp", "input": "source"}}))
        assert job["state"] == "failed"
        api.http.post(f"/api/dead-letters/{action}", json={"job": job["id"]}).raise_for_status()


def test_every_documented_series_is_there(api, prometheus):
    with receiver() as there:
        run_everything(api, there.url)
        expected = documented() - RARE
        wait_for(lambda: not expected - prometheus.names(), 90)
    assert prometheus.names() <= documented()

    assert prometheus.number("sum(up)") == prometheus.number("count(up)")
    assert prometheus.number('sum(ray_pixtools_steps_total{operation="webp",result="cached"})') >= 1
    assert prometheus.number('sum(ray_pixtools_step_failures_total{code="corrupt_image"})') >= 2
    assert prometheus.number('sum(ray_pixtools_step_run_seconds_count{operation="denoise"})') >= 1
    assert prometheus.number("sum(ray_pixtools_denoised_megapixels_total)") >= 0.06
    assert prometheus.number('sum(ray_pixtools_http_request_seconds_count{route="/api/jobs",status="202"})') >= 4
    assert prometheus.number("min(pixtools_component_up)") == 1
    assert prometheus.number('ALERTS{alertname="PixToolsDown"}') == 0


def test_the_state_of_the_service_is_open_and_has_no_secrets(api):
    answer = api.http.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r'pixtools_[a-z_]+(\{[a-z]+="[a-z0-9.]+"\})? [\d.e+]+', line) for line in lines), lines
    assert 'pixtools_component_up{component="database"} 1.0' in lines


def test_every_query_of_the_dashboard_is_valid(prometheus):
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    for expression in expressions:
        prometheus.query(expression.replace("$__rate_interval", "1m"))
    assert len(expressions) > 30
