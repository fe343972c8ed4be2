"""The connection of a Ray client, without a cluster. tests/e2e/test_ray_client.py connects to a real one."""

from __future__ import annotations

import pytest
import ray

from serve import ray_client

ADDRESS = "ray://127.0.0.1:10001"


@pytest.fixture
def failures(monkeypatch):
    """The errors of the next tries to connect. After them, a try succeeds."""
    errors: list[Exception] = []

    def init(*_, **__):
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return errors


def test_a_client_whose_process_dies_at_its_start_tries_again(failures):
    failures += [ConnectionAbortedError("died")] * 4
    ray_client._connect(ADDRESS)
    assert failures == []


def test_a_client_does_not_try_for_ever(failures):
    failures += [ConnectionAbortedError("died")] * 6
    with pytest.raises(ConnectionError, match="cannot start a process for this client: died"):
        ray_client._connect(ADDRESS)
    assert len(failures) == 1


def test_a_refused_client_does_not_try_again(failures):
    failures += [ConnectionError("timeout"), ConnectionError("timeout")]
    with pytest.raises(ConnectionError, match="Perhaps its token is wrong"):
        ray_client._connect(ADDRESS)
    assert len(failures) == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "ray://127.0.0.1", "ray://:1", "ray://h:x", "nothing"])
def test_an_address_of_another_form_is_refused(address):
    with (
        pytest.raises(ConnectionError, match="is not an address of the form ray://HOST:PORT"),
        ray_client.connect(address),
    ):
        pass
