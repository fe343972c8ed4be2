"""The retry rules: the pauses between tries, and how often a call is tried.

The class of an error (`errors.py`) says whether a failed try is repeated (`retryable`) and whether it is counted
(`outage`). The settings `max_attempts` and `max_crashes` limit how often a step is tried in all.
`database/outcome_recorder.py` applies these rules to each outcome.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

from pixtools.errors import ConverterCrashed
from pixtools.jobs.records import StepRecord
from pixtools.states import STEP_ENDED

STORE_PAUSE_S = 1.0
"""Pause between two calls of a database or Redis that does not answer."""

LOOP_PAUSE_S = 1.0
"""Pause of a dispatcher loop after an unexpected error, so that a bug does not keep a CPU busy."""

REDRIVE_PAUSE_S = 10.0
"""Pause of the dead-letter queue after an unexpected error in a redrive."""

CONVERTER_CALL_TRIES = 3
"""Tries of one converter call.

A call is tried again only if the converter died, or was silent, before the converter began with the segment.
"""

CONVERTER_START_PAUSE_S = 1.0
"""Pause after a converter failed to start, so that a broken node does not get one request after the other."""

DENOISER_PAUSES_S = (1.0, 3.0, 10.0, 30.0)
"""Pauses between the tries of one picture at the denoiser.

A replica can fail or die although the picture is good, so the picture is sent again. All pauses together are longer
than Serve needs to replace a replica that fails its health checks.
"""

QUEUE_REPLACEMENT_TIMEOUT_S = 120.0
"""Longest time to replace a dead-letter queue that has other code or settings. A busy machine starts actors slowly."""

QUEUE_ANSWER_TIMEOUT_S = 30.0
"""Longest wait until a running dead-letter queue answers which build of the code it runs."""

QUEUE_REPLACEMENT_PAUSE_S = 0.2
"""Pause between two tries to replace the dead-letter queue."""

DELIVERY_PAUSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""Pauses between the attempts of a delivery. So there are ten attempts, and the last begins about three days later."""

_DELIVERY_JITTER = 0.2
_LONGEST_RETRY_AFTER = timedelta(hours=24)
_RETRY_CAP_S = 300.0
_TRIES_AFTER_OUTAGE = 3  # the delay is at most 2^3 seconds, because an outage may end at any moment


def backoff(steps: Sequence[StepRecord]) -> timedelta:
    """Return how long a job waits for its next attempt. The open step with the most failed tries decides."""
    open_steps = [step for step in steps if step.state not in STEP_ENDED]
    tries = max((step.failures + crash_tries(step.crashes) for step in open_steps), default=0)
    # Outages and first crashes are not counted. A job pauses after an outage, and does not pause after a first crash.
    errors = [step.error for step in open_steps if step.error is not None]
    if tries == 0 and any(error["code"] != ConverterCrashed.code for error in errors):
        tries = _TRIES_AFTER_OUTAGE
    return jitter(tries)


def crash_tries(crashes: int) -> int:
    """Convert a number of crashes to a number of failed tries.

    The first crash does not count, because another step may have caused it.
    """
    return max(0, crashes - 1)


def delivery_pause(failures: int, retry_after: timedelta | None) -> timedelta | None:
    """Return the pause after `failures` failed attempts of a delivery, or None if no attempt is left.

    Each pause varies by up to 20 percent, so that deliveries that failed together are not retried together. If the
    receiver asked for a longer pause (`retry_after`), the pause is that long or up to 20 percent longer, and at most a
    day.
    """
    if failures > len(DELIVERY_PAUSES):
        return None
    pause = DELIVERY_PAUSES[failures - 1] * random.uniform(1 - _DELIVERY_JITTER, 1 + _DELIVERY_JITTER)  # noqa: S311
    asked = (retry_after or timedelta()) * random.uniform(1, 1 + _DELIVERY_JITTER)  # noqa: S311
    return max(pause, min(asked, _LONGEST_RETRY_AFTER))


def jitter(tries: int) -> timedelta:
    """Return a random delay from 0 to 2^tries seconds (full jitter), at most five minutes. Return 0 if `tries` is 0."""
    longest_s = min(2.0 ** min(tries, 16), _RETRY_CAP_S) if tries else 0.0
    return timedelta(seconds=random.uniform(0, longest_s))  # noqa: S311 (jitter, not a secret)
