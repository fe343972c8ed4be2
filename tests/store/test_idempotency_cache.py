"""Idempotency's fast path: who accepts a key now, and what it was answered; all of it may be gone at any time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from pixtools.database.job_store import Accepted, Idempotency, Scope
from pixtools.redis import idempotency_cache
from pixtools.redis.idempotency_cache import AnswerCache

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cache(settings) -> AsyncIterator[AnswerCache]:
    cache = AnswerCache(settings)
    yield cache
    await cache.close()


@pytest.fixture
def scope() -> Scope:
    return Scope("ann", "POST /api/jobs", uuid.uuid4().hex)


@pytest.fixture
def valkey(settings):
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        yield client


ANSWER = Accepted(b'{"bytes": "\xc3\xbc\xff\x00"}', uuid.uuid4(), replayed=False)


async def test_a_key_is_reserved_by_one_request_at_a_time(cache, scope):
    token = await cache.reserve(scope)

    assert token is not None
    assert await cache.reserve(scope) is None
    assert await cache.answer(scope) is None


async def test_a_released_key_can_be_reserved_again(cache, scope):
    first = await cache.reserve(scope)
    await cache.release(scope, first)

    second = await cache.reserve(scope)

    assert second is not None
    assert second != first


async def test_a_release_with_an_old_token_leaves_the_key_to_its_new_holder(cache, scope, valkey):
    stale = await cache.reserve(scope)
    valkey.flushdb()  # its time was over
    assert await cache.reserve(scope) is not None

    await cache.release(scope, stale)

    assert await cache.reserve(scope) is None


async def test_an_answer_is_kept_as_it_was_given(cache, scope):
    await cache.reserve(scope)
    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)

    fingerprint, answer = await cache.answer(scope)

    assert (fingerprint, answer.body, answer.job_id, answer.replayed) == (
        "fingerprint",
        ANSWER.body,
        ANSWER.job_id,
        True,
    )
    assert await cache.reserve(scope) is None


async def test_a_release_after_the_answer_was_kept_leaves_the_answer(cache, scope):
    token = await cache.reserve(scope)
    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)

    await cache.release(scope, token)

    assert await cache.answer(scope) is not None


async def test_a_key_that_was_never_used_has_no_answer(cache, scope):
    assert await cache.answer(scope) is None


@pytest.mark.parametrize("field", ["owner", "route", "key"])
async def test_a_key_counts_for_its_owner_and_route_alone(cache, scope, field):
    other = Scope(**(vars(scope) | {field: "other"}))
    await cache.reserve(scope)
    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)

    assert await cache.answer(other) is None
    assert await cache.reserve(other) is not None
    await cache.keep(Idempotency(other, "fingerprint"), ANSWER)


async def test_parts_of_a_scope_are_not_run_together(cache, scope):
    await cache.reserve(Scope("a", "b c", scope.key))

    assert await cache.reserve(Scope("a b", "c", scope.key)) is not None


async def test_what_is_kept_ends_by_itself(cache, scope, valkey, settings):
    valkey.flushdb()
    await cache.reserve(scope)
    (name,) = valkey.keys()
    assert 0 < valkey.ttl(name) <= 10

    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)

    assert valkey.keys() == [name]
    assert 60 < valkey.ttl(name) <= settings.idempotency_ttl.total_seconds()


async def test_a_reservation_lasts_as_long_as_it_is_held_and_little_longer(cache, scope, monkeypatch):
    monkeypatch.setattr(idempotency_cache, "_RESERVED_S", 1)
    token = await cache.reserve(scope)
    holding = asyncio.create_task(cache.hold(scope, token))
    await asyncio.sleep(2.5)
    assert await cache.reserve(scope) is None

    holding.cancel()  # as its holder dies
    async with asyncio.timeout(60):
        while await cache.reserve(scope) is None:
            await asyncio.sleep(0.1)


async def test_keys_and_owners_are_not_readable_in_redis(cache, valkey):
    valkey.flushdb()
    await cache.reserve(Scope("secret owner", "route", "secret key"))

    assert not any("secret" in name for name in valkey.scan_iter())


async def test_redis_that_is_emptied_makes_every_key_look_free(cache, scope, valkey):
    await cache.reserve(scope)
    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)

    valkey.flushall()

    assert await cache.answer(scope) is None
    assert await cache.reserve(scope) is not None


async def test_a_store_that_is_there_answers(cache):
    assert await cache.ping() is True


async def test_a_connection_that_was_cut_costs_one_reservation_at_most(cache, scope, valkey):
    await cache.ping()
    valkey.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await cache.reserve(Scope("ann", "route", "unlucky")) is not None

    assert await cache.reserve(scope) is not None
    assert await cache.reserve(scope) is None


async def test_without_redis_every_key_looks_free_and_nothing_fails(nowhere, scope):
    cache = AnswerCache(nowhere)

    token = await cache.reserve(scope)
    assert token is not None
    assert await cache.reserve(scope) is not None
    await cache.release(scope, token)
    await cache.keep(Idempotency(scope, "fingerprint"), ANSWER)
    assert await cache.answer(scope) is None
    assert await cache.ping() is False
    await cache.close()
