"""The nodes of actors, and the namespace of their names."""

from __future__ import annotations

from typing import Any

NAMESPACE = "pixtools"

HEAD = "node:__internal_head__"
"""A resource of the head, which has 1 of it."""

# These actors mostly wait for other processes. If they needed CPUs, they could not start while converters use all CPUs.
# They run on the head: autoscalers remove nodes on which no actor reserves a CPU, but never the head.
COORDINATOR: dict[str, Any] = {
    "num_cpus": 0,
    "resources": {HEAD: 0.001},
    "max_restarts": -1,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "get_if_exists": True,
}
"""Options of a named actor that does not convert pictures."""
