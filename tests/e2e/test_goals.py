"""A step has a goal: a score or a maximum size. Its file reaches the goal, and its result tells how."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from images import photo, saved
from PIL import Image
from ssimulacra2 import compute_ssimulacra2


def grainy() -> Image.Image:
    """Return a photo with film grain. Because of the grain, files of high quality are large."""
    grain = np.random.default_rng(3).normal(0, 6, (300, 400, 1))
    return Image.fromarray((photo(400, 300) + grain).clip(0, 255).astype(np.uint8))


def test_goals_are_reached_and_their_results_say_how(api):
    source = saved(grainy(), "PNG")
    steps = {
        "near": {"op": "avif", "input": "source", "target": 55},
        "small": {"op": "jpg", "input": "source", "max_bytes": 12_000},
        "plain": {"op": "jpg", "input": "source"},
        "never": {"op": "webp", "input": "source", "max_bytes": 50},
    }

    job = api.wait(api.submit("grainy.png", source, steps))

    assert job["state"] == "partial", job
    near, small, never = (job["steps"][name] for name in ("near", "small", "never"))
    score = compute_ssimulacra2(io.BytesIO(source), io.BytesIO(api.download(job, "near")))
    assert score == pytest.approx(55, abs=1)
    assert near["result"]["score"] == pytest.approx(score, abs=0.1)
    assert near["result"]["reached"] is True
    assert near["result"]["encodes"] <= 6
    assert 11_000 < len(api.download(job, "small")) <= 12_000
    assert small["result"]["lowered_for"] == "max_bytes"
    assert job["steps"]["plain"]["result"] is None
    assert never["error"]["code"] == "goal_out_of_reach"
    assert "Resize the picture" in never["error"]["detail"]


def test_a_result_is_kept_smaller_than_its_source(api):
    source = saved(grainy(), "JPEG", quality=12)
    steps = {
        "larger": {"op": "jpg", "input": "source"},
        "kept": {"op": "jpg", "input": "source", "keep_smaller": True},
    }

    job = api.wait(api.submit("poor.jpg", source, steps))

    assert len(api.download(job, "larger")) > len(source)
    assert len(api.download(job, "kept")) <= len(source)
    assert job["steps"]["kept"]["result"]["lowered_for"] == "keep_smaller"


def test_a_quality_beside_a_target_is_refused_at_once(api):
    steps = {"both": {"op": "webp", "input": "source", "quality": 80, "target": 70}}

    answer = api.post("photo.png", saved(grainy(), "PNG"), steps=json.dumps(steps))

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": "/steps/both", "detail": "leave out `quality` or `target`: the target decides the quality"}
    ]
