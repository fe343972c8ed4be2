"""Messages to a service manager, received on real sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pixtools.local.service_manager import notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_message_has_one_line_for_each_value(tmp_path: Path, monkeypatch, is_abstract):
    name = f"@pixtools-test-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if is_abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=The service accepts jobs.")

        assert manager.recv(1_000) == b"READY=1\nSTATUS=The service accepts jobs."


def test_without_a_service_manager_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    notify("READY=1")
