"""Errors become problem+json. The detail of a single mistake can be understood without the list of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from pixtools.errors import Fault
from serve import problems
from serve.dead_letter_routes import DeadLetterRoutes
from serve.job_routes import JobRoutes
from serve.problems import invalid_request

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the routes of jobs and dead letters. The routes have no stores, because these tests need no store."""
    app = FastAPI()
    problems.install(app)
    app.include_router(JobRoutes(*[None] * 6).router())
    app.include_router(DeadLetterRoutes(None).router())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_an_id_that_is_none_is_named_in_the_detail(http):
    problem = (await http.get("/api/jobs/nonsense")).json()

    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert problem["detail"].startswith("job_id: input should be a valid UUID, ")
    (fault,) = problem["errors"]
    assert fault["pointer"] == "/path/job_id"
    assert fault["detail"].startswith("Input should be a valid UUID, ")


async def test_a_single_mistake_of_a_body_is_named_by_its_field(http):
    problem = (await http.post("/api/dead-letters/discard", json={"job": None, "op": "wepb"})).json()

    assert problem["detail"].startswith("op: is not an operation; use one of jpg, ")


async def test_a_mistake_of_the_body_as_a_whole_has_no_field(http):
    problem = (await http.post("/api/dead-letters/redrive", json={})).json()

    assert problem["detail"].startswith("body: select dead letters by ")


async def test_a_body_that_is_not_json_is_named_as_such(http):
    answer = await http.post("/api/dead-letters/redrive", content=b"{", headers={"Content-Type": "application/json"})

    assert answer.json()["detail"] == "body: JSON decode error."


async def test_several_mistakes_are_listed_in_the_detail_and_explained_one_by_one(http):
    problem = (await http.get("/api/jobs", params={"limit": 0, "state": "odd"})).json()

    assert problem["detail"] == "These fields are not valid: state, limit."
    assert [fault["pointer"] for fault in problem["errors"]] == ["/query/state", "/query/limit"]


def test_an_answer_has_a_bounded_number_of_faults_and_names():
    faults = tuple(Fault(f"/body/{'x' * 1000}{number}", "is unknown") for number in range(1000))

    error = invalid_request(faults)

    assert len(error.faults) == 100
    assert error.detail.endswith(" and 995 more.")
    assert len(error.detail) < 600


async def test_an_unknown_error_tells_no_internals(http):
    problem = (await http.get("/api/jobs/0199aaaa-0000-7000-8000-000000000000")).json()  # fails: there is no store

    assert (problem["status"], problem["code"]) == (500, "internal")
    assert "NoneType" not in str(problem)


def test_a_field_with_a_slash_in_its_name_is_shown_as_it_was_sent():
    error = problems.invalid_request((Fault("/a~1b", "Is not a valid name."),))

    assert error.detail == "a/b: is not a valid name."
