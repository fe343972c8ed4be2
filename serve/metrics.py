"""`/metrics` for Prometheus: the state of the whole service. Only the free disk is that of the node of this ingress.

The counts and times of each process are in Ray's endpoints. docs/monitoring.md lists all series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from serve.health import HealthAnswer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Collector:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(health: HealthAnswer) -> bytes:
    """Return the state of the service in the text format of Prometheus, without the numbers that are not known."""
    return generate_latest(_Collector(list(_series(health))))


def _series(health: HealthAnswer) -> Iterator[Metric]:
    yield _gauge("build_info", "The version of PixTools; the value is always 1.", {"version": {health.version: 1}})
    components = {name: float(state == "up") for name, state in health.parts.model_dump().items()}
    yield _gauge("component_up", "Whether a store answers.", {"component": components})
    if health.backlog is not None:
        yield _gauge("jobs", "Jobs that have not ended.", {"state": health.backlog})
    yield _gauge("queued_megapixels", "Work of the queued jobs.", health.queued_megapixels)
    yield _gauge(
        "oldest_queued_seconds", "How long ago the oldest queued job became available.", health.oldest_queued_s
    )
    yield _gauge("free_bytes", "Free space of the fullest disk that this node watches.", health.free_bytes)
    yield _gauge("dispatchers", "Dispatchers.", {"state": _answering(health.dispatchers)})
    yield _gauge("couriers", "Couriers.", {"state": _answering(health.couriers)})
    yield from _converters([each for each in health.dispatchers if each is not None])


def _answering(actors: list[dict[str, Any] | None]) -> dict[str, int]:
    return {"up": len(actors) - actors.count(None), "silent": actors.count(None)}


def _converters(dispatchers: list[dict[str, Any]]) -> Iterator[Metric]:
    def total(name: str) -> int:
        return sum(each[name] for each in dispatchers)

    running = total("running_converters")
    states = {
        "starting": total("converters") - running,
        "idle": total("idle_converters"),
        "busy": running - total("idle_converters"),
    }
    yield _gauge("converters", "Converters.", {"state": states})
    memory = {"taken": total("taken_bytes"), "budget": total("memory_bytes")}
    yield _gauge(
        "converter_memory_bytes", "Memory that running steps declared, and the budget of all.", {"kind": memory}
    )
    yield _gauge("denoising_jobs", "Jobs whose pictures are at the denoiser.", total("denoising"))
    yield _gauge("claimed_jobs", "Jobs that dispatchers run.", total("jobs"))


def _gauge(name: str, description: str, value: Mapping[str, Mapping[str, float]] | float | None) -> GaugeMetricFamily:
    """Return a gauge. `value` is a number, or a number for each value of one label."""
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(f"pixtools_{name}", description, value=value)
    ((label, numbers),) = value.items()
    family = GaugeMetricFamily(f"pixtools_{name}", description, labels=[label])
    for label_value, number in numbers.items():
        family.add_metric([label_value], number)
    return family
