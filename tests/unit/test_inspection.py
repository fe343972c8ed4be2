"""Headers are read in other processes. A file that hangs, kills or fills a process costs only its own request."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import time
from contextlib import closing
from dataclasses import replace

import pytest
from images import LIMITS, photo, saved

from pixtools.errors import CorruptImage, ImageTooLarge, Overloaded, PixToolsError, UnsupportedType
from pixtools.imaging.header import inspect
from pixtools.sandbox import files
from serve.inspection import Inspection

pytestmark = pytest.mark.anyio

PHOTO = saved(photo(96, 64), "PNG")


def answer(**changes) -> bytes:
    header = {"media_type": "image/png", "width": 1, "height": 1, "frames": 1}
    return json.dumps({"answer": header | changes}).encode()


def spin(_):
    while True:
        pass


def answer_half(connection):
    os.write(connection.fileno(), b"\0\0")
    time.sleep(60)


def answer_late(connection):
    time.sleep(2)
    connection.send_bytes(answer())


def answer_and_exit(connection):
    connection.send_bytes(answer())
    os._exit(0)


COMMANDS = {
    b"die": lambda _: os.abort(),
    b"hang": spin,
    b"sleep": lambda _: time.sleep(60),
    b"half an answer": answer_half,
    b"exit later": answer_and_exit,
    b"lie": lambda connection: connection.send_bytes(answer(width=100_000)),
    b"type": lambda connection: connection.send_bytes(answer(media_type="text/html")),
    b"nonsense": lambda connection: connection.send_bytes(b'{"answer": 5}'),
    b"slow": answer_late,
    b"good": lambda connection: connection.send_bytes(answer()),
}


def obey():
    """Prepare a worker that does what the file says."""

    def work(connection):
        while True:
            connection.recv()
            with files.receive(connection) as file:
                data = file.read()
            COMMANDS[data.rstrip(b"\0")](connection)

    return work


@pytest.fixture(scope="module")
def real():
    with closing(Inspection()) as inspection:
        yield inspection


@pytest.fixture
def obedient():
    with closing(Inspection("test_inspection:obey")) as inspection:
        yield inspection


async def inspected(inspection, data, limits=LIMITS):
    with tempfile.SpooledTemporaryFile(max_size=65_536) as file:
        file.write(data)
        file.seek(0)
        return await inspection.inspect(file, limits)


async def test_the_header_of_a_photo_is_read(real):
    header = await inspected(real, PHOTO)

    assert (header.media_type, header.width, header.height, header.frames) == ("image/png", 96, 64, 1)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"This is no picture.", UnsupportedType), (PHOTO[:20], CorruptImage), (PHOTO, ImageTooLarge)],
)
async def test_the_error_of_a_file_is_the_same_as_without_a_process(real, data, error):
    limits = replace(LIMITS, side=95)

    with pytest.raises(error) as raised:
        await inspected(real, data, limits)
    with pytest.raises(error) as expected:
        inspect(io.BytesIO(data), limits)
    assert raised.value.detail == expected.value.detail


@pytest.mark.parametrize("data", [b"die", b"hang", b"nonsense", b"type", b"sleep", b"half an answer"])
async def test_a_process_that_dies_hangs_or_talks_nonsense_is_replaced_and_costs_one_request(
    obedient, data, monkeypatch
):
    monkeypatch.setattr("serve.inspection._WALL_S", 5.0)
    error, *headers = await asyncio.gather(refused(obedient, data), *(inspected(obedient, b"good") for _ in range(8)))

    assert isinstance(error, CorruptImage)
    assert "3 seconds" in error.detail
    assert [header.width for header in headers] == [1] * 8


async def refused(inspection, data):
    with pytest.raises(PixToolsError) as raised:
        await inspected(inspection, data)
    return raised.value


async def test_a_header_beyond_the_limits_is_refused_even_if_the_process_accepts_it(obedient):
    assert isinstance(await refused(obedient, b"lie"), ImageTooLarge)


async def test_a_process_that_has_died_meanwhile_costs_no_request(obedient):
    for _ in range(4):
        assert (await inspected(obedient, b"exit later")).width == 1
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(("pause_s", "order"), [(0, ["small", "large"]), (0.6, ["large", "small"])])
async def test_a_small_file_comes_before_a_large_file_that_has_waited_only_briefly(pause_s, order, monkeypatch):
    monkeypatch.setattr("serve.inspection._PROCESSES", 1)
    monkeypatch.setattr("serve.inspection._BYTES_PER_S", 10_000)
    ended = []

    async def inspect_as(name, data):
        await inspected(inspection, data)
        ended.append(name)

    with closing(Inspection("test_inspection:obey")) as inspection:
        await inspected(inspection, b"good")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inspected(inspection, b"slow"))
            await asyncio.sleep(0.1)
            tasks.create_task(inspect_as("large", b"good" + bytes(4_000)))
            await asyncio.sleep(pause_s)
            tasks.create_task(inspect_as("small", b"good"))

    assert ended == order


async def test_a_request_that_is_cancelled_while_it_waits_is_not_inspected(monkeypatch):
    monkeypatch.setattr("serve.inspection._PROCESSES", 1)
    with closing(Inspection("test_inspection:obey")) as inspection:
        await inspected(inspection, b"good")
        slow = asyncio.create_task(inspected(inspection, b"slow"))
        await asyncio.sleep(0.1)
        gone = asyncio.create_task(inspected(inspection, b"die"))
        await asyncio.sleep(0.1)
        gone.cancel()

        assert (await slow).width == 1
        assert (await inspected(inspection, b"good")).width == 1


async def test_a_process_that_stops_reading_is_replaced(monkeypatch):
    monkeypatch.setattr("serve.inspection._WALL_S", 3.0)
    with closing(Inspection("test_inspection:deaf")) as inspection:
        assert isinstance(await refused(inspection, bytes(5_000_000)), CorruptImage)


async def test_a_process_that_does_not_start_is_no_mistake_of_the_file():
    with closing(Inspection("no_such_module:prepare")) as inspection:
        assert isinstance(await refused(inspection, PHOTO), Overloaded)


def deaf():
    """Prepare a worker that reads nothing."""
    return lambda _: time.sleep(60)
