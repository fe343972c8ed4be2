"""Errors become problem+json. The detail of a single mistake can be understood without the list of faults."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from pixtools.errors import Fault, StorageDown
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
    app.include_router(JobRoutes(*[None] * 7).router())
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


@pytest.mark.parametrize(
    "query",
    [
        {"state": "s" * 20_000, "cursor": "c" * 20_000, "limit": "9" * 20_000},
        {"op": "o" * 20_000, "code": "c" * 20_000, "job": "j" * 20_000},
        {"op": "\0", "code": "a b"},
        {f"{'x' * 50}{number}": "1" for number in range(1_000)} | {"limit": "0"},
    ],
    ids=["long values", "long names", "odd characters", "many parameters"],
)
@pytest.mark.parametrize("path", ["/api/jobs", "/api/dead-letters"])
async def test_a_query_with_long_values_gets_a_small_problem(http, path, query):
    if path == "/api/jobs" and "op" in query:
        query = {"state": query["op"]}
    answer = await http.get(path, params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(answer.content) < 4_000


@pytest.mark.parametrize(
    "body",
    [
        {f"{'x' * 50}{number}": 1 for number in range(1_000)},
        {"x" * 60_000: 1},
        {"op": "o" * 60_000},
        {"code": "c" * 60_000},
        {"code": "\ud800"},
        {"\ud800": 1},
        {"op": ["webp"] * 10_000},
        {"job": "j" * 60_000},
        [[]] * 10_000,
        "text",
    ],
    ids=lambda body: str(body)[:12],
)
async def test_a_selection_with_long_or_many_fields_gets_a_small_problem(http, body):
    headers = {"Content-Type": "application/json"}
    answer = await http.post("/api/dead-letters/redrive", content=json.dumps(body), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("body", ["[" * 50_000, '{"op":' * 20_000, '{"op": ' + "1" * 5_000 + "}"])
async def test_a_selection_that_cannot_be_read_gets_a_small_problem(http, body):
    headers = {"Content-Type": "application/json"}
    answer = await http.post("/api/dead-letters/redrive", content=body, headers=headers)

    assert answer.status_code in (400, 422)
    assert len(answer.content) < 1_000


async def test_more_fields_than_a_selection_has_are_one_mistake(http):
    body = {f"x{number}": 1 for number in range(5)}
    (fault,) = (await http.post("/api/dead-letters/discard", json=body)).json()["errors"]

    assert fault["detail"] == "has 5 fields; the only fields are job, op, code, all"


async def test_a_long_code_of_a_problem_is_cut(http):
    answer = await http.get(f"/problems/{'c' * 60_000}")

    assert answer.status_code == 404
    assert len(answer.content) < 400


async def test_the_problem_of_a_step_or_a_library_is_small():
    for text in ("x" * 1_000_000, "\x01" * 1_000_000, "😀" * 1_000_000, "\ud800" * 1_000_000, "\0" * 1_000_000):
        error = StorageDown(text, (Fault(text, text),) * 1_000)
        body = problems.respond(error).body

        assert len(body) < 65_536
        assert len(json.loads(body)["errors"]) == 100
        assert "\\u0000" not in body.decode()


def test_a_problem_of_ordinary_length_is_not_cut():
    fault = Fault("/steps/" + "n" * 64 + "/resize/" + "x" * 80, "d" * 400)

    assert StorageDown("d" * 1_000, (fault,)).problem()["errors"] == [
        {"pointer": fault.pointer, "detail": fault.detail}
    ]
    assert StorageDown("d" * 1_000).problem()["detail"] == "d" * 1_000


async def test_an_unknown_error_tells_no_internals(http):
    problem = (await http.get("/api/jobs/0199aaaa-0000-7000-8000-000000000000")).json()  # fails: there is no store

    assert (problem["status"], problem["code"]) == (500, "internal")
    assert "NoneType" not in str(problem)


def test_a_field_with_a_slash_in_its_name_is_shown_as_it_was_sent():
    error = problems.invalid_request((Fault("/a~1b", "Is not a valid name."),))

    assert error.detail == "a/b: is not a valid name."
