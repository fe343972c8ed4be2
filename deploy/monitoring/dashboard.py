"""Prints a dashboard for Grafana as JSON. The file grafana.json contains this output.

python deploy/monitoring/dashboard.py > deploy/monitoring/grafana.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

_WIDTH, _HEIGHT = 8, 7  # of a panel, on Grafana's grid of 24 columns


@dataclass(frozen=True)
class Panel:
    """A graph. `queries` are PromQL expressions with the text of their legends."""

    title: str
    unit: str
    queries: dict[str, str]
    stacked: bool = False
    description: str = field(default="", kw_only=True)


def _rate(series: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({series}{where}[$__rate_interval]))"


def _quantile(quantile: float, histogram: str, *by: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'{histogram}_bucket', ', '.join([*by, 'le']))})"


ROWS: dict[str, list[Panel]] = {
    "Service": [
        Panel("Stores", "bool_on_off", {"pixtools_component_up": "{{component}}"}),
        Panel("Jobs that have not ended", "short", {"pixtools_jobs": "{{state}}"}, stacked=True),
        Panel("Age of the oldest queued job", "s", {"pixtools_oldest_queued_seconds": "oldest"}),
        Panel("Work in the queue, megapixels", "short", {"pixtools_queued_megapixels": "queued"}),
        Panel("Jobs ended", "ops", {_rate("ray_pixtools_jobs_ended_total", "state"): "{{state}}"}, stacked=True),
        Panel("Free disk", "bytes", {"pixtools_free_bytes": "fullest disk"}),
    ],
    "Requests": [
        Panel(
            "Requests by status", "reqps", {_rate("ray_pixtools_http_request_seconds_count", "status"): "{{status}}"}
        ),
        Panel("Requests by route", "reqps", {_rate("ray_pixtools_http_request_seconds_count", "route"): "{{route}}"}),
        Panel(
            "Time by route, 95 %",
            "s",
            {_quantile(0.95, "ray_pixtools_http_request_seconds", "route"): "{{route}}"},
            description="Requests that wait for a job, and event streams, are long on purpose.",
        ),
    ],
    "Steps": [
        Panel("Steps by operation", "ops", {_rate("ray_pixtools_steps_total", "operation"): "{{operation}}"}),
        Panel("Steps by result", "ops", {_rate("ray_pixtools_steps_total", "result"): "{{result}}"}),
        Panel("Failed tries by error", "ops", {_rate("ray_pixtools_step_failures_total", "code"): "{{code}}"}),
        Panel("Wait, 95 %", "s", {_quantile(0.95, "ray_pixtools_step_wait_seconds", "operation"): "{{operation}}"}),
        Panel("Run, 95 %", "s", {_quantile(0.95, "ray_pixtools_step_run_seconds", "operation"): "{{operation}}"}),
        Panel(
            "From submission to result, 95 %",
            "s",
            {_quantile(0.95, "ray_pixtools_step_end_to_end_seconds", "operation"): "{{operation}}"},
        ),
        Panel("New artifacts", "Bps", {_rate("ray_pixtools_artifact_bytes_total", "operation"): "{{operation}}"}),
        Panel(
            "Share of steps from the cache",
            "percentunit",
            {
                'sum(rate(ray_pixtools_steps_total{result="cached"}[$__rate_interval]))'
                " / sum(rate(ray_pixtools_steps_total[$__rate_interval]))": "cached"
            },
        ),
    ],
    "Converters and denoiser": [
        Panel("Converters", "short", {"pixtools_converters": "{{state}}"}, stacked=True),
        Panel("Memory of converters", "bytes", {"pixtools_converter_memory_bytes": "{{kind}}"}),
        Panel(
            "Dispatchers and couriers",
            "short",
            {"pixtools_dispatchers": "dispatchers {{state}}", "pixtools_couriers": "couriers {{state}}"},
        ),
        Panel(
            "Jobs at dispatchers",
            "short",
            {"pixtools_claimed_jobs": "claimed", "pixtools_denoising_jobs": "at the denoiser"},
        ),
        Panel("Pictures at the denoiser, megapixels", "short", {"sum(ray_pixtools_denoiser_megapixels)": "megapixels"}),
        Panel(
            "Denoised, megapixels a second",
            "short",
            {"sum(rate(ray_pixtools_denoised_megapixels_total[$__rate_interval]))": "megapixels"},
        ),
    ],
    "What went wrong": [
        Panel("Dead letters", "short", {"sum by (state) (ray_pixtools_dead_letters)": "{{state}}"}, stacked=True),
        Panel("New dead letters by error", "ops", {_rate("ray_pixtools_dead_letters_total", "code"): "{{code}}"}),
        Panel(
            "Redriven and discarded",
            "ops",
            {
                "sum(rate(ray_pixtools_dead_letters_redriven_total[$__rate_interval]))": "redriven",
                "sum(rate(ray_pixtools_dead_letters_discarded_total[$__rate_interval]))": "discarded",
                "sum(rate(ray_pixtools_dead_letters_forgotten_total[$__rate_interval]))": "forgotten",
            },
        ),
        Panel(
            "Jobs rescued from lost dispatchers",
            "ops",
            {"sum(rate(ray_pixtools_rescued_total[$__rate_interval]))": "rescued"},
        ),
        Panel(
            "Files",
            "ops",
            {
                "sum(rate(ray_pixtools_artifacts_lost_total[$__rate_interval]))": "lost",
                "sum(rate(ray_pixtools_orphans_total[$__rate_interval]))": "orphans deleted",
            },
        ),
    ],
    "Webhooks": [
        Panel("Attempts by result", "ops", {_rate("ray_pixtools_deliveries_total", "result"): "{{result}}"}),
        Panel("Deliveries that have not ended", "short", {"sum by (state) (ray_pixtools_deliveries)": "{{state}}"}),
        Panel("Open circuits", "short", {"max(ray_pixtools_open_circuits)": "open"}),
        Panel("Time of an attempt, 95 %", "s", {_quantile(0.95, "ray_pixtools_delivery_seconds"): "95 %"}),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, graphs in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        y += 1
        for number, panel in enumerate(graphs):
            x = number % (24 // _WIDTH) * _WIDTH
            panels.append(_graph(panel, len(panels) + 1, x, y + number // (24 // _WIDTH) * _HEIGHT))
        y += -(-len(graphs) // (24 // _WIDTH)) * _HEIGHT
    return {
        "uid": "pixtools",
        "title": "PixTools",
        "tags": ["pixtools"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def _graph(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 30 if panel.stacked else 8,
                    "stacking": {"mode": "normal" if panel.stacked else "none"},
                },
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
