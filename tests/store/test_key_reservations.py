"""Reservations of idempotency keys. Redis may lose all of them at any time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from pixtools.jobs.submission import IdempotencyScope
from pixtools.redis import key_reservations
from pixtools.redis.key_reservations import KeyReservations

pytestmark = pytest.mark.anyio


@pytest.fixture
async def reservations(settings) -> AsyncIterator[KeyReservations]:
    reservations = KeyReservations(settings)
    yield reservations
    await reservations.close()


@pytest.fixture
def scope() -> IdempotencyScope:
    return IdempotencyScope("ann", "POST /api/jobs", uuid.uuid4().hex)


@pytest.fixture
def valkey(settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        yield client


async def test_a_key_is_reserved_by_one_request_at_a_time(reservations, scope):
    token = await reservations.reserve(scope)

    assert token is not None
    assert await reservations.reserve(scope) is None


async def test_a_released_key_can_be_reserved_again(reservations, scope):
    first = await reservations.reserve(scope)
    await reservations.release(scope, first)

    second = await reservations.reserve(scope)

    assert second is not None
    assert second != first


async def test_a_release_with_an_old_token_keeps_the_new_reservation(reservations, scope, valkey):
    stale = await reservations.reserve(scope)
    valkey.flushdb()  # as if the reservation had expired
    assert await reservations.reserve(scope) is not None

    await reservations.release(scope, stale)

    assert await reservations.reserve(scope) is None


@pytest.mark.parametrize("field", ["owner", "route", "key"])
async def test_a_key_is_valid_only_for_its_owner_and_route(reservations, scope, field):
    other = IdempotencyScope(**(vars(scope) | {field: "other"}))
    await reservations.reserve(scope)

    assert await reservations.reserve(other) is not None


async def test_the_fields_of_a_scope_are_not_joined(reservations, scope):
    await reservations.reserve(IdempotencyScope("a", "b c", scope.key))

    assert await reservations.reserve(IdempotencyScope("a b", "c", scope.key)) is not None


async def test_a_reservation_expires_after_ten_seconds_and_leaves_nothing_when_it_is_released(
    reservations, scope, valkey
):
    valkey.flushdb()
    token = await reservations.reserve(scope)
    (name,) = valkey.keys()
    assert 0 < valkey.ttl(name) <= 10

    await reservations.release(scope, token)

    assert valkey.keys() == []


async def test_a_reservation_expires_soon_after_it_is_no_longer_extended(reservations, scope, monkeypatch):
    monkeypatch.setattr(key_reservations, "_RESERVATION_S", 1)
    token = await reservations.reserve(scope)
    holding = asyncio.create_task(reservations.hold(scope, token))
    await asyncio.sleep(2.5)
    assert await reservations.reserve(scope) is None

    holding.cancel()  # as if the process of this request had died
    async with asyncio.timeout(60):
        while await reservations.reserve(scope) is None:
            await asyncio.sleep(0.1)


async def test_keys_and_owners_are_not_readable_in_redis(reservations, valkey):
    valkey.flushdb()
    await reservations.reserve(IdempotencyScope("secret owner", "route", "secret key"))

    assert not any("secret" in name for name in valkey.scan_iter())


async def test_every_key_is_free_after_redis_was_emptied(reservations, scope, valkey):
    await reservations.reserve(scope)

    valkey.flushall()

    assert await reservations.reserve(scope) is not None


async def test_redis_that_is_up_answers(reservations):
    assert await reservations.ping() is True


async def test_a_cut_connection_fails_at_most_one_reservation(reservations, scope, valkey):
    await reservations.ping()
    valkey.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await reservations.reserve(IdempotencyScope("ann", "route", "unlucky")) is not None

    assert await reservations.reserve(scope) is not None
    assert await reservations.reserve(scope) is None


async def test_without_redis_every_key_is_free_and_nothing_fails(nowhere, scope):
    reservations = KeyReservations(nowhere)

    token = await reservations.reserve(scope)
    assert token is not None
    assert await reservations.reserve(scope) is not None
    await reservations.release(scope, token)
    assert await reservations.ping() is False
    await reservations.close()
