"""The ids of HTTP requests, from the place where they arrive to the log lines of the application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn.config
from fastapi import FastAPI
from ray.serve._private import http_util

from pixtools import logs
from pixtools.errors import NotFound
from serve import problems, proxy
from serve.request_ids import RequestContext, RequestIds

pytestmark = pytest.mark.anyio

log = logging.getLogger(__name__)
app = FastAPI()
problems.install(app)


@app.get("/ok")
def ok() -> str:
    log.warning("handled")
    return logs.ids()["request_id"]


@app.get("/missing")
async def missing() -> None:
    raise NotFound


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(RequestIds(RequestContext(app)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_the_id_of_the_client_comes_back_once(http):
    answer = await http.get("/ok", headers={"X-Request-ID": "a-1"})
    assert answer.headers.get_list("x-request-id") == ["a-1"]
    assert answer.json() == "a-1"


@pytest.mark.parametrize("sent", [[], [""], ["a b"], ["x" * 129], ["a", "b"], ["caf\xe9"]])
async def test_a_request_without_one_valid_id_gets_a_new_one(http, sent):
    headers = [(b"X-Request-ID", value.encode("latin-1")) for value in sent]
    answer = await http.get("/ok", headers=headers)
    (new,) = answer.headers.get_list("x-request-id")
    assert len(new) == 36
    assert new not in sent
    assert answer.json() == new


async def test_a_problem_names_the_request(http):
    answer = await http.get("/missing", headers={"X-Request-ID": "a-2"})
    assert (answer.json()["request_id"], answer.headers["x-request-id"]) == ("a-2", "a-2")
    assert not logs.ids()


async def test_log_lines_of_a_request_contain_its_id(http, caplog):
    caplog.handler.setFormatter(logs.TextLines())
    await http.get("/ok", headers={"X-Request-ID": "a-3"})
    log.warning("outside")
    inside, outside = (line for line in caplog.text.splitlines() if __name__ in line)
    assert inside.endswith(": handled request_id=a-3")
    assert outside.endswith(": outside")


async def test_behind_serve_also_a_refusal_of_the_gate_has_exactly_one_id(monkeypatch):
    monkeypatch.setattr(http_util, "RequestIdMiddleware", http_util.RequestIdMiddleware)
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    transport = httpx.ASGITransport(http_util._apply_middlewares(app, proxy.middlewares()))
    async with httpx.AsyncClient(transport=transport) as http:
        for url, status in (("http://127.0.0.1/missing", 404), ("http://evil.example/ok", 421)):
            answer = await http.get(url, headers={"X-Request-ID": "a-4"})
            assert (answer.status_code, answer.json()["request_id"]) == (status, "a-4")
            assert answer.headers.get_list("x-request-id") == ["a-4"]
