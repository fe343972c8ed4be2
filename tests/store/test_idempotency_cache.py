"""The idempotency cache: reservations of keys, and cached responses. Redis may lose all of them at any time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from pixtools.jobs.submission import Accepted, Idempotency, IdempotencyScope
from pixtools.redis import idempotency_cache
from pixtools.redis.idempotency_cache import IdempotencyCache

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cache(settings) -> AsyncIterator[IdempotencyCache]:
    cache = IdempotencyCache(settings)
    yield cache
    await cache.close()


@pytest.fixture
def scope() -> IdempotencyScope:
    return IdempotencyScope("ann", "POST /api/jobs", uuid.uuid4().hex)


@pytest.fixture
def valkey(settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        yield client


RESPONSE = Accepted(b'{"bytes": "\xc3\xbc\xff\x00"}', uuid.uuid4(), replayed=False)


async def test_a_key_is_reserved_by_one_request_at_a_time(cache, scope):
    token = await cache.reserve(scope)

    assert token is not None
    assert await cache.reserve(scope) is None
    assert await cache.get(scope) is None


async def test_a_released_key_can_be_reserved_again(cache, scope):
    first = await cache.reserve(scope)
    await cache.release(scope, first)

    second = await cache.reserve(scope)

    assert second is not None
    assert second != first


async def test_a_release_with_an_old_token_keeps_the_new_reservation(cache, scope, valkey):
    stale = await cache.reserve(scope)
    valkey.flushdb()  # as if the reservation had expired
    assert await cache.reserve(scope) is not None

    await cache.release(scope, stale)

    assert await cache.reserve(scope) is None


async def test_a_response_is_cached_unchanged(cache, scope):
    await cache.reserve(scope)
    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)

    fingerprint, response = await cache.get(scope)

    assert (fingerprint, response.body, response.job_id, response.replayed) == (
        "fingerprint",
        RESPONSE.body,
        RESPONSE.job_id,
        True,
    )
    assert await cache.reserve(scope) is None


async def test_a_release_keeps_a_cached_response(cache, scope):
    token = await cache.reserve(scope)
    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)

    await cache.release(scope, token)

    assert await cache.get(scope) is not None


async def test_a_key_that_was_never_used_has_no_response(cache, scope):
    assert await cache.get(scope) is None


@pytest.mark.parametrize("field", ["owner", "route", "key"])
async def test_a_key_is_valid_only_for_its_owner_and_route(cache, scope, field):
    other = IdempotencyScope(**(vars(scope) | {field: "other"}))
    await cache.reserve(scope)
    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)

    assert await cache.get(other) is None
    assert await cache.reserve(other) is not None
    await cache.put(Idempotency(other, "fingerprint"), RESPONSE)


async def test_the_fields_of_a_scope_are_not_joined(cache, scope):
    await cache.reserve(IdempotencyScope("a", "b c", scope.key))

    assert await cache.reserve(IdempotencyScope("a b", "c", scope.key)) is not None


async def test_reservations_and_responses_expire(cache, scope, valkey, settings):
    valkey.flushdb()
    await cache.reserve(scope)
    (name,) = valkey.keys()
    assert 0 < valkey.ttl(name) <= 10

    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)

    assert valkey.keys() == [name]
    assert 60 < valkey.ttl(name) <= settings.idempotency_ttl.total_seconds()


async def test_a_reservation_expires_soon_after_it_is_no_longer_extended(cache, scope, monkeypatch):
    monkeypatch.setattr(idempotency_cache, "_RESERVATION_S", 1)
    token = await cache.reserve(scope)
    holding = asyncio.create_task(cache.hold(scope, token))
    await asyncio.sleep(2.5)
    assert await cache.reserve(scope) is None

    holding.cancel()  # as if the process of this request had died
    async with asyncio.timeout(60):
        while await cache.reserve(scope) is None:
            await asyncio.sleep(0.1)


async def test_keys_and_owners_are_not_readable_in_redis(cache, valkey):
    valkey.flushdb()
    await cache.reserve(IdempotencyScope("secret owner", "route", "secret key"))

    assert not any("secret" in name for name in valkey.scan_iter())


async def test_every_key_is_free_after_redis_was_emptied(cache, scope, valkey):
    await cache.reserve(scope)
    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)

    valkey.flushall()

    assert await cache.get(scope) is None
    assert await cache.reserve(scope) is not None


async def test_redis_that_is_up_answers(cache):
    assert await cache.ping() is True


async def test_a_cut_connection_fails_at_most_one_reservation(cache, scope, valkey):
    await cache.ping()
    valkey.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await cache.reserve(IdempotencyScope("ann", "route", "unlucky")) is not None

    assert await cache.reserve(scope) is not None
    assert await cache.reserve(scope) is None


async def test_without_redis_every_key_is_free_and_nothing_fails(nowhere, scope):
    cache = IdempotencyCache(nowhere)

    token = await cache.reserve(scope)
    assert token is not None
    assert await cache.reserve(scope) is not None
    await cache.release(scope, token)
    await cache.put(Idempotency(scope, "fingerprint"), RESPONSE)
    assert await cache.get(scope) is None
    assert await cache.ping() is False
    await cache.close()
