"""How many replicas the denoiser gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from serve.denoiser import _Load
from serve.denoiser_scaling import ByWaitingTime


def context(*replicas: tuple[float, int] | None, queued: float = 0, requests: float | None = None):
    """Return the argument of a policy. `replicas` holds the backlog in seconds and the pictures of each replica.

    None stands for a replica without a report.
    """
    reports = {number: values for number, values in enumerate(replicas) if values is not None}
    series = {
        name: {number: [SimpleNamespace(value=old), SimpleNamespace(value=now[at])] for number, now in reports.items()}
        for at, (name, old) in enumerate((("backlog_s", 99), ("pictures", 7)))
    }
    total = sum(pictures for _, pictures in reports.values()) + queued if requests is None else requests
    return SimpleNamespace(
        raw_metrics=series,
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas),
        total_queued_requests=queued,
        total_num_requests=total,
    )


@pytest.mark.parametrize(
    ("given", "replicas"),
    [
        (context(requests=0), 0),
        (context((0, 0), requests=0), 0),
        (context(requests=1), 1),
        (context((29, 3)), 1),
        (context((31, 3)), 2),
        (context((70, 2), (10, 1)), 3),
        (context((30, 3), queued=3), 2),  # the three that wait take as long as the three that run
        (context((0, 0), requests=0.1), 1),  # a picture ended a moment ago
        (context((0, 0), queued=2), 2),  # pictures of an unknown size count as a full replica each
        (context(None, queued=9), 1),  # the first replica has not reported yet
    ],
)
def test_a_replica_for_each_30_seconds_of_work(given, replicas):
    assert ByWaitingTime(30)(given) == (replicas, {})


def test_a_replica_that_has_not_reported_yet_counts_as_empty():
    started = context((90, 3), (0, 0))
    started.raw_metrics["backlog_s"][1] = []
    assert ByWaitingTime(30)(started)[0] == 3


def test_the_target_must_be_positive():
    with pytest.raises(ValueError, match="target_s is 0"):
        ByWaitingTime(0)


def test_the_backlog_follows_the_speed_of_the_replica():
    now = 0.0
    load = _Load(lambda: now)
    load.begin(4_000_000)
    assert load.seconds == 4  # at the speed of a million pixels per second
    now = 2.0
    load.advance(4_000_000)
    load.end(0)
    assert load.seconds == 0
    now = 100.0  # idle time does not count
    load.begin(2_000_000)
    load.begin(6_000_000)
    assert (load.seconds, load.pictures) == (4, 2)
    now = 104.0
    load.advance(3_000_000)  # the half of the second picture
    load.end(2_000_000)  # the first picture was not denoised
    assert load.seconds == pytest.approx(3_000_000 / (7_000_000 / 6))


def test_serve_finds_the_policy(request):
    config = yaml.safe_load((request.config.rootpath / "serve_config.yaml").read_text())
    (denoiser,) = ServeDeploySchema.model_validate(config).applications[1].deployments
    policy = AutoscalingPolicy(**denoiser.autoscaling_config["policy"])
    assert policy.get_policy()(**policy.policy_kwargs)(context((31, 1))) == (2, {})
