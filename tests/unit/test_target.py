"""An existing Ray cluster as the target of `pixtools up`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pixtools.local import cluster, deployment, target
from pixtools.local.cluster import Cluster
from pixtools.local.home import Home
from pixtools.local.local_error import LocalError
from pixtools.local.local_settings import LocalSettings
from pixtools.local.target import Target

NODE = Target(Cluster("http://192.0.2.7:8265", "token"), {}, "http://192.0.2.7:8000", None)


def test_a_cluster_without_a_token_is_refused_before_any_request(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))

    with pytest.raises(LocalError, match=r"no token.*everyone.*ray get-auth-token --generate.*RAY_AUTH_TOKEN"):
        target.use_cluster(Home(tmp_path / "home"), "http://127.0.0.1:1", LocalSettings(), {}, {})


@pytest.mark.parametrize("folder", ["", "/no/such/folder"])
def test_a_deployment_that_found_no_secrets_is_explained(folder):
    """The test takes the message from a process without secrets, because a node reports the same message."""
    node = subprocess.run(
        [sys.executable, "-c", "from pixtools.settings import Settings; Settings()"],
        check=False,
        env={"PIXTOOLS_SECRETS_DIR": folder, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert node.returncode == 1

    explained = str(NODE.explained(LocalError(f"The service could not be deployed:\n{node.stderr}")))

    assert "PIXTOOLS_DATABASE_URL, PIXTOOLS_REDIS_URL, PIXTOOLS_S3_ACCESS_KEY_ID" in explained
    assert "in the environment of every node, or set PIXTOOLS_SECRETS_DIR there" in explained


def test_another_failure_is_not_explained_by_missing_secrets():
    failure = LocalError("1 validation error for Settings\nmax_steps\n  Input should be greater than or equal to 1")

    assert NODE.explained(failure) is failure


def test_a_page_on_the_loopback_address_of_other_machines_is_not_awaited():
    assert not Target(NODE.cluster, {"http_options": {"host": "127.0.0.1"}}, "", None).page_is_reachable
    assert Target(NODE.cluster, {"http_options": {"host": "0.0.0.0"}}, "", None).page_is_reachable
    assert Target(Cluster("http://localhost:8265", "token"), {}, "", None).page_is_reachable


def test_an_ipv6_address_of_a_cluster_has_brackets_in_urls():
    assert cluster.at("ray://[fd00::2]:10001", 8265).dashboard_url == "http://[fd00::2]:8265"
    assert cluster.at("[fd00::2]:6379", 8265).host == "fd00::2"
    assert deployment.page_url({}, "fd00::2") == "http://[fd00::2]:8000"


def test_secrets_of_nodes_are_private_files_and_old_ones_are_deleted(tmp_path):
    home = Home(tmp_path / "home")
    home.write_node_secrets({"PIXTOOLS_REDIS_URL": "old", "PIXTOOLS_S3_ACCESS_KEY_ID": "old"})

    folder = home.write_node_secrets({"PIXTOOLS_REDIS_URL": "new"})

    assert {path.name: path.read_text() for path in folder.iterdir()} == {"PIXTOOLS_REDIS_URL": "new"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
