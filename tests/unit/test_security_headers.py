"""The headers of answers: which answers a browser may store, and what pages of other origins may load."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse

from serve.security_headers import SecurityHeaders

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http():
    app = SecurityHeaders(PlainTextResponse("x"), images_from="https://pictures.example/pixtools/")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        yield http


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/api/jobs", "no-store"),
        ("GET", "/api/jobs/x", "no-store"),
        ("GET", "/api/jobs/x/events", "no-store"),
        ("POST", "/api/jobs", "no-store"),
        ("POST", "/api/dead-letters/redrive", "no-store"),
        ("GET", "/api/operations", "no-cache"),
        ("GET", "/static/main.js", "no-cache"),
        ("HEAD", "/", "no-cache"),
    ],
)
async def test_only_answers_that_may_contain_download_urls_are_not_stored(http, method, path, rule):
    assert (await http.request(method, path)).headers["cache-control"] == rule


async def test_pages_of_other_origins_load_nothing(http):
    headers = (await http.get("/")).headers

    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "; img-src 'self' blob: data: https://pictures.example/pixtools/" in headers["content-security-policy"]
