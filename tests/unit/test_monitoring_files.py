"""The metrics in the code, in the docs, in the alerts and in the dashboard are the same."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/monitoring"
DOCS = (ROOT / "docs/monitoring.md").read_text()
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
PROMTOOL = shutil.which("promtool", path=ROOT / "build/prometheus/usr/bin") or shutil.which("promtool")

SERIES = re.compile(r"\b(?:ray_)?pixtools_\w+")
SUFFIX = re.compile(r"(_bucket|_sum|_count)$")


def in_code() -> set[str]:
    """Return the names of all series that the code makes."""
    found = set()
    for package in ("serve", "actors"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if "ray.util.metrics" in text:
                names = re.findall(r'"(pixtools_\w+)"', text)
                names += [f"pixtools_step_{name}_seconds" for name in re.findall(r'\("(\w+)", "Time', text)]
                found |= {f"ray_{name}" for name in names}
    gauges = re.findall(r'_gauge\(\s*"(\w+)"', (ROOT / "serve/metrics.py").read_text())
    return found | {f"pixtools_{name}" for name in gauges}


def used(text: str) -> set[str]:
    return {SUFFIX.sub("", name) for name in SERIES.findall(text)}


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in DOCS.splitlines() if line.startswith("| `")]
    return used(" ".join(rows))


def test_the_docs_name_exactly_the_series_of_the_code():
    assert documented() == in_code()


def test_the_dashboard_is_the_one_that_the_script_makes():
    made = subprocess.run([sys.executable, FOLDER / "dashboard.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (FOLDER / "grafana.json").read_text()


def test_the_dashboard_shows_every_series_and_no_others():
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert used(" ".join(expressions)) == in_code() - {"pixtools_build_info"}


def test_no_two_panels_overlap():
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    assert {x for x, _ in places} == set(range(24))


def test_the_alerts_use_only_series_that_exist():
    assert RULES
    for rule in RULES:
        assert used(rule["expr"]) <= in_code(), rule
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_docs_name_exactly_the_alerts():
    names = [rule["alert"] for rule in RULES]
    assert re.findall(r"^\| `(PixTools\w+)`", DOCS, re.MULTILINE) == names


def test_each_alert_has_a_test_in_which_it_fires():
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for test in tests for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    assert fired == silent == {rule["alert"] for rule in RULES}


def promtool(*arguments: object, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed: `make tools`")
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder)


def test_the_alerts_fire_as_their_tests_say():
    ended = promtool("test", "rules", "alerts_test.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("number", range(len(RULES)), ids=[rule["alert"] for rule in RULES])
def test_an_alert_that_never_fires_fails_its_test(tmp_path, number):
    alerts = copy.deepcopy(ALERTS)
    alerts["groups"][0]["rules"][number]["expr"] = "vector(1) > 2"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(alerts))
    shutil.copy(FOLDER / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", "alerts_test.yml", folder=tmp_path).returncode != 0


def test_prometheus_accepts_the_configuration(tmp_path):
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "prom_metrics_service_discovery.json").write_text("[]")
    ended = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_port_is_that_of_the_service():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    serve = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["http_options"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": [f"{serve['host']}:{serve['port']}"]}]
