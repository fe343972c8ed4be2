"""Calls wait for the database, waiting can have a time limit, and the log reports each outage."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest
from sqlalchemy.exc import OperationalError
from virtual_time import VirtualTimeLoop

from pixtools.errors import DatabaseDown, LeaseLost
from pixtools.logs import OutageLog, reason
from pixtools.waiting import until_database_answers, wait_at_most

pytestmark = pytest.mark.anyio

WRONG_PASSWORD = 'connection failed: FATAL:  password authentication failed for user "pixtools"'


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture
def outages() -> OutageLog:
    return OutageLog("database", clock=lambda: asyncio.get_running_loop().time())


def down(message: str = WRONG_PASSWORD) -> DatabaseDown:
    """Return the error that the stores raise when the database driver fails with this message."""
    error = DatabaseDown("OperationalError")
    error.__cause__ = OperationalError("SELECT 1", {"secret": 1}, psycopg.OperationalError(message))
    return error


class Server:
    """A server that answers calls with "answer", except in its first `outage_s` seconds."""

    def __init__(self, outage_s: float, message: str = WRONG_PASSWORD) -> None:
        self._end = asyncio.get_running_loop().time() + outage_s
        self._message = message
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        if asyncio.get_running_loop().time() < self._end:
            raise down(self._message)
        return "answer"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pixtools.logs"]


async def test_a_call_is_repeated_each_second_until_the_database_answers(outages):
    server = Server(outage_s=4.5)

    answer = await until_database_answers(server.call, doing="testing", outages=outages)

    assert (answer, server.calls) == ("answer", 6)


async def test_every_other_error_is_raised_at_once(outages):
    async def lose() -> None:
        raise LeaseLost("job 1")

    with pytest.raises(LeaseLost):
        await until_database_answers(lose, doing="testing", outages=outages)


async def test_after_an_error_of_an_earlier_call_the_pause_comes_first(outages):
    server = Server(outage_s=0.5)

    await until_database_answers(server.call, doing="testing", after=down(), outages=outages)

    assert server.calls == 1


async def test_an_outage_is_logged_as_it_begins_every_thirty_seconds_and_as_it_ends(outages, caplog):
    caplog.set_level(logging.INFO)

    await until_database_answers(Server(outage_s=70).call, doing="claiming jobs", outages=outages)

    assert lines(caplog) == [
        f"database does not answer: doing=claiming jobs reason={WRONG_PASSWORD}",
        f"database still does not answer: for_s=30 waiting_calls=1 doing=claiming jobs reason={WRONG_PASSWORD}",
        f"database still does not answer: for_s=60 waiting_calls=1 doing=claiming jobs reason={WRONG_PASSWORD}",
        "database answers again: after_s=70.0",
    ]


async def test_a_hundred_waiting_calls_log_as_much_as_one(outages, caplog):
    caplog.set_level(logging.INFO)
    server = Server(outage_s=70)

    await asyncio.gather(
        *(until_database_answers(server.call, doing="recording outcomes", outages=outages) for _ in range(100))
    )

    assert server.calls == 7100
    assert len(lines(caplog)) == 4
    assert "waiting_calls=100" in lines(caplog)[1]


async def test_each_outage_is_logged_anew(outages, caplog):
    caplog.set_level(logging.INFO)

    for outage_s in (3, 5):
        await until_database_answers(Server(outage_s).call, doing="testing", outages=outages)

    assert [line for line in lines(caplog) if "again" in line] == [
        "database answers again: after_s=3.0",
        "database answers again: after_s=5.0",
    ]
    assert len(lines(caplog)) == 4


async def test_a_database_that_always_answers_is_not_logged(outages, caplog):
    caplog.set_level(logging.INFO)

    await until_database_answers(Server(outage_s=0).call, doing="testing", outages=outages)

    assert lines(caplog) == []


async def test_a_cancelled_call_does_not_log_that_the_database_answers(outages, caplog):
    caplog.set_level(logging.INFO)
    waiting = asyncio.create_task(until_database_answers(Server(outage_s=1e6).call, doing="testing", outages=outages))
    await asyncio.sleep(5.5)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert len(lines(caplog)) == 1
    await until_database_answers(Server(outage_s=2).call, doing="testing", outages=outages)
    assert lines(caplog)[-1] == "database answers again: after_s=2.0"


def test_the_reason_tells_a_wrong_password_from_a_server_that_is_down():
    refused = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: Connection refused'

    assert reason(down()) == WRONG_PASSWORD
    assert reason(down(f"{refused}\n\tIs the server running on that host?")) == refused


@pytest.mark.parametrize(
    "message",
    [
        'invalid connection option in "postgresql://pixtools:secret@db:5432/pixtools"',
        "could not translate host name secret@db to address",  # the driver takes the text after an @ for the host name
    ],
)
def test_the_reason_holds_neither_a_url_nor_a_password(message):
    assert "secret" not in reason(down(message))
    assert "(address)" in reason(down(message))


def test_the_reason_of_an_error_without_a_message_is_its_class():
    assert reason(down("")) == "OperationalError"
    assert reason(DatabaseDown("PoolTimeout")) == "PoolTimeout"


async def test_an_event_that_is_set_in_time_is_waited_for():
    event, began = asyncio.Event(), asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(3, event.set)

    assert await wait_at_most(event, 5)

    assert asyncio.get_running_loop().time() - began == pytest.approx(3)


async def test_waiting_for_an_event_ends_with_the_time_limit():
    began = asyncio.get_running_loop().time()

    assert not await wait_at_most(asyncio.Event(), 5)

    assert asyncio.get_running_loop().time() - began == pytest.approx(5)


async def test_an_awaitable_that_takes_too_long_is_cancelled():
    task = asyncio.create_task(asyncio.sleep(10))

    assert not await wait_at_most(task, 5)

    assert task.cancelled()


async def test_a_timeout_of_the_awaitable_itself_is_raised():
    async def time_out() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await wait_at_most(time_out(), 5)
