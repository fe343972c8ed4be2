"""Hosts on this machine: network namespaces that a bridge connects. Nothing outside this machine can reach them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


# The first process of a host. It ignores SIGCHLD, so that orphans that have ended do not stay as zombies.
_FIRST_PROCESS = 'hostname "$0" && mount --bind "$1" "$2" && exec env --ignore-signal=CHLD sleep infinity'


class Host:
    """A host with a name, an address, processes and a folder of its own."""

    def __init__(self, network: Network, number: int) -> None:
        self.name = f"host{number}"
        self.address = f"{network.prefix}.{number}"
        self._folder = network.folder
        self._own_folder = network.folder.with_name(f"{network.folder.name}-of-{self.name}")
        self._own_folder.mkdir()
        self._namespace = f"{network.tag}n{number}"
        self._link = f"{network.tag}v{number}"
        self._started: list[subprocess.Popen[bytes]] = []
        self._first: psutil.Process | None = None
        _ip("netns", "add", self._namespace)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        _ip("link", "set", self._link, "master", network.bridge, "up")
        for arguments in (
            ["link", "set", "lo", "up"],
            ["link", "set", "eth0", "up"],
            ["address", "add", f"{self.address}/24", "dev", "eth0"],
            ["route", "add", "default", "via", network.address],
        ):
            _ip("-n", self._namespace, *arguments)

    def _boot(self) -> psutil.Process:
        """Start the first process of the host. It holds the namespaces, and ends when this process ends."""
        holder = subprocess.Popen(
            [
                *("ip", "netns", "exec", self._namespace, "setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", _FIRST_PROCESS, self.name, self._own_folder, self._folder),
            ],
            start_new_session=True,
        )
        self._started.append(holder)
        deadline = time.monotonic() + 30
        while not (found := [each for each in psutil.Process(holder.pid).children() if each.name() == "sleep"]):
            assert holder.poll() is None, "the host did not start"
            assert time.monotonic() < deadline, "the host did not start"
            time.sleep(0.01)
        return found[0]

    def start(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on this host. The program ends when this process ends.

        A program sees only the processes of its host. The returned process is `nsenter`, which waits for the program.
        `kill` ends both.
        """
        if not (self._first and self._first.is_running()):
            self._first = self._boot()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *("nsenter", "--target", str(self._first.pid), "--net", "--uts", "--mount", "--pid"),
                    *(f"--wdns={Path.cwd()}", *command),
                ],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path, timeout: float = 120) -> None:
        """Run a program on this host. Fails if the program fails."""
        code = self.start(command, env, log).wait(timeout)
        assert code == 0, f"{command} ended with code {code}:\n{log.read_text()[-3000:]}"

    def pids(self) -> list[int]:
        """Return the ids of all processes on this host."""
        return [int(pid) for pid in _ip("netns", "pids", self._namespace).split()]

    def kill(self) -> None:
        """Kill every process on this host at once."""
        deadline = time.monotonic() + 30
        while pids := self.pids():
            assert time.monotonic() < deadline, pids
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for process in self._started:
            process.wait(30)
        self._first = None

    def traffic(self) -> int:
        """Return how many bytes have gone to and from this host so far."""
        (link,) = json.loads(_ip("-json", "-statistics", "link", "show", self._link))
        return sum(link["stats64"][way]["bytes"] for way in ("rx", "tx"))

    def cut(self) -> None:
        """Pull the cable: from now on, the host and the network lose all packets to each other."""
        _ip("link", "set", self._link, "down")

    def remove(self) -> None:
        """Kill all processes of the host, and remove it from the network."""
        self.kill()
        _ip("netns", "delete", self._namespace)


class Network:
    """A network of hosts. This process is on it too, at `address`.

    Each host sees files of its own in `folder`, and shares all other files with this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.tag = f"px{secrets.token_hex(2)}"
        self.bridge = f"{self.tag}b"
        self.prefix = f"10.201.{secrets.randbelow(256)}"
        self.address = f"{self.prefix}.254"
        self._hosts: list[Host] = []
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.remove()
        _ip("link", "delete", self.bridge)

    def new_host(self) -> Host:
        """Connect a new host to the network."""
        self._hosts.append(Host(self, len(self._hosts) + 1))
        return self._hosts[-1]
