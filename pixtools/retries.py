"""How long a job waits before it is tried again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

from pixtools.database.tables import Step
from pixtools.states import STEP_ENDED

_RETRY_CAP_S = 300.0
_AFTER_AN_OUTAGE = 3  # it may end any moment: the delay stays below 2^3 seconds


def backoff(steps: Sequence[Step]) -> timedelta:
    """Return how long a job waits for its next attempt, by what its steps have met so far."""
    waiting = [step for step in steps if step.state not in STEP_ENDED]
    tries = max((step.failures + crash_tries(step.crashes) for step in waiting), default=0)
    if tries == 0 and any(step.error is not None and step.crashes == 0 for step in waiting):
        tries = _AFTER_AN_OUTAGE
    return jitter(tries)


def crash_tries(crashes: int) -> int:
    """Count crashes as tries to wait for: the first may be anybody's fault, and the next try need not wait."""
    return max(0, crashes - 1)


def jitter(tries: int) -> timedelta:
    """Return a delay with full jitter: anything up to 2^tries seconds, at most five minutes; none before a try."""
    most = min(2.0 ** min(tries, 16), _RETRY_CAP_S) if tries else 0.0
    return timedelta(seconds=random.uniform(0, most))  # noqa: S311 (jitter, not a secret)
