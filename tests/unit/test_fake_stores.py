"""The fake stores have the interfaces of the real stores. Otherwise, tests with fake stores would prove nothing."""

from __future__ import annotations

import inspect

import pytest
from fake_stores import FakeDeadLetterStore, FakeHints, FakeJobStore, FakeReconciler

from pixtools.database.dead_letter_store import DeadLetterStore
from pixtools.database.job_store import JobStore
from pixtools.database.reconciler import Reconciler
from pixtools.redis.hints import Hints


@pytest.mark.parametrize(
    ("fake", "real", "helpers"),
    [
        (FakeJobStore, JobStore, {"add", "times"}),
        (FakeDeadLetterStore, DeadLetterStore, {"add", "in_state"}),
        (FakeReconciler, Reconciler, set()),
        (FakeHints, Hints, set()),
    ],
)
def test_a_fake_store_has_the_methods_of_the_real_one(fake, real, helpers):
    public = {name for name, _ in inspect.getmembers(fake, inspect.isfunction) if not name.startswith("_")} - helpers
    assert public
    for name in public:
        assert inspect.signature(getattr(fake, name)) == inspect.signature(getattr(real, name)), name
