"""A sandboxed process has no secrets, opens no files and reaches no servers. It ends with its parent."""

from __future__ import annotations

import errno
import os
import pwd
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from attacker import loot

from pixtools.sandbox import files
from pixtools.sandbox.process import ChildDied, SandboxedProcess

MEMORY_BYTES = 100_000_000


def echo():
    """Prepare a worker that sends back what it receives, and knows a few commands.

    Like libraries, the preparation starts a thread. Code that controls the process may use this thread too.
    """
    commands, results = queue.Queue(), queue.Queue()
    threading.Thread(
        target=lambda: [results.put(loot(*each)) for each in iter(commands.get, None)], daemon=True
    ).start()

    def work(connection):
        while True:
            match connection.recv():
                case ("loot", ports, files):
                    commands.put((ports, files))
                    connection.send((loot(ports, files), results.get()))
                case ("allocate", size):
                    try:
                        connection.send(len(bytes(size)))
                    except MemoryError:
                        connection.send("no memory")
                case "identity":
                    connection.send((os.getuid(), os.getgid(), os.getppid(), sorted(os.environ)))
                case "die":
                    os.abort()
                case "spin":
                    connection.send("spinning")
                    while True:
                        pass
                case other:
                    connection.send(other)

    return work


def read_and_write():
    """Prepare a worker that reads a file of the parent, and then tries to write to it."""

    def work(connection):
        with files.receive(connection) as file:
            content = file.read()
            try:
                os.write(file.fileno(), b"hostile")
            except OSError as error:
                connection.send((content, error.errno))

    return work


def hoard():
    """Prepare a worker that closes no file."""

    def work(connection):
        kept = []
        for _ in range(connection.recv()):
            with suppress(EOFError):
                kept.append(files.receive(connection))
        connection.send(len(kept))

    return work


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_DATABASE_URL", "postgresql://pixtools:secret@127.0.0.1/pixtools")
    monkeypatch.setenv("MY_SECRET", "of the user")
    started = SandboxedProcess("test_sandbox:echo", MEMORY_BYTES)
    started.wait_until_ready()
    yield started
    started.end()


def send(process, file):
    descriptor = files.reopen(file)
    files.send(process.connection, descriptor)
    os.close(descriptor)


def ask(process, question):
    process.connection.send(question)
    assert process.connection.poll(20)
    return process.connection.recv()


def test_code_in_the_sandbox_finds_no_secret_and_no_way_out(process, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        found = ask(process, ("loot", [server.getsockname()[1]], [str(secret), __file__]))

    assert found == ({}, {}), "the main thread and the thread of the preparation"


def test_the_same_code_finds_secrets_outside_the_sandbox(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        program = f"from attacker import loot; print(*loot([{port}], [{str(secret)!r}]), sep='\\n')"
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "MY_SECRET": "of the user"}
        found = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)

    wanted = {
        *("environment", "own environment", "list of files", "account file", "new file", "program", "process"),
        *("shared memory", "socket", "signal to the parent", f"port {port}", f"file {secret}"),
    }
    assert wanted <= set(found.stdout.splitlines())


def test_a_file_that_the_parent_hands_over_can_only_be_read():
    process = SandboxedProcess("test_sandbox:read_and_write", MEMORY_BYTES)
    with tempfile.TemporaryFile() as file:
        process.wait_until_ready()
        file.write(b"content")
        send(process, file)
        assert process.connection.poll(20)

        assert process.connection.recv() == (b"content", errno.EBADF)
        assert file.tell() == len(b"content")  # the processes do not share a position
        file.seek(0)
        assert file.read() == b"content"
    process.end()


def test_a_process_cannot_keep_all_files_that_it_gets():
    process = SandboxedProcess("test_sandbox:hoard", MEMORY_BYTES)
    process.wait_until_ready()
    sent = process.connection.fileno() + 50
    process.connection.send(sent)
    with tempfile.TemporaryFile() as file:
        for _ in range(sent):
            send(process, file)

    assert process.connection.poll(20)
    assert process.connection.recv() < sent
    process.end()


def test_every_thread_is_filtered(process):
    states = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/status")]

    assert len(states) > 1
    assert all("Seccomp:\t2" in state for state in states)


def test_a_child_of_root_is_another_user(process):
    user, group, parent, variables = ask(process, "identity")

    assert parent == os.getpid()
    assert "MY_SECRET" not in variables
    if os.getuid() == 0:
        users_of_others = {0, pwd.getpwnam("nobody").pw_uid}  # a local Postgres runs as `nobody`
        assert user not in users_of_others
        assert group not in users_of_others


def test_memory_is_limited(process):
    assert ask(process, ("allocate", MEMORY_BYTES // 2)) == MEMORY_BYTES // 2
    assert ask(process, ("allocate", 2 * MEMORY_BYTES)) == "no memory"


def test_a_child_that_dies_closes_its_connection(process):
    process.connection.send("die")

    with pytest.raises((EOFError, OSError)):
        process.connection.recv()
    assert process.end() == -signal.SIGABRT
    with pytest.raises(ChildDied):
        process.cpu_s()


def test_a_child_that_cannot_start_is_reported():
    broken = SandboxedProcess("no_such_module:prepare", MEMORY_BYTES)

    with pytest.raises(ChildDied):
        broken.wait_until_ready()
    broken.end()


PARENT = """
import sys, time
from pixtools.sandbox.process import SandboxedProcess
process = SandboxedProcess("test_sandbox:echo", 100_000_000)
process.wait_until_ready()
process.connection.send("spin")
process.connection.recv()
print(process.pid, flush=True)
time.sleep(60)
"""


def test_a_busy_child_ends_with_its_parent():
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=env, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        psutil.wait_procs([child], timeout=20)

    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)
