"""Decides how many replicas the denoiser has, from the estimated time of its pictures.

Serve's own policy counts pictures. But a picture may have 0.1 or 50 megapixels, and a GPU is many times as fast as a
CPU. So each replica reports how many seconds its pictures take at its own speed.

Serve copies this module into its controller, so the module imports nothing of PixTools.
"""

from __future__ import annotations

import math
from typing import Any


class ByWaitingTime:
    """An autoscaling policy of Serve: a replica for each `target_s` seconds of work."""

    def __init__(self, target_s: float = 30.0) -> None:
        if target_s <= 0:
            raise ValueError(f"target_s is {target_s}: give a number of seconds above 0")
        self._target_s = target_s

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas, and the state that Serve keeps for the next call.

        Serve applies the bounds and the delays of the deployment to the number.
        """
        if context.total_num_requests == 0:
            return 0, {}
        if not any((context.raw_metrics or {}).get("pictures", {}).values()):  # the first replica has just started
            return max(1, context.target_num_replicas), {}
        backlog_s, pictures = (_total(context.raw_metrics, name) for name in ("backlog_s", "pictures"))
        # The sizes of pictures that wait for a replica are not known. Take the mean of the others.
        each_s = backlog_s / pictures if pictures else self._target_s
        waiting_s = backlog_s + (context.total_queued_requests or 0) * each_s
        return max(1, math.ceil(waiting_s / self._target_s)), {}


def _total(metrics: Any, name: str) -> float:
    """Return the sum of the newest values of all replicas."""
    return float(sum(series[-1].value for series in (metrics or {}).get(name, {}).values() if series))
