"""The page `/docs` describes the API. In a real browser, the form for submissions can be filled in and sent."""

from __future__ import annotations

import json
import re

import pytest
from chromium import chromium, needs_chromium
from playwright.sync_api import expect
from sideways import sideways_photo

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with chromium("--disable-background-networking") as browser:
        yield browser


@pytest.fixture
def form(browser, stack):
    """The form "Try it out" for a submission. A photo is already chosen."""
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.goto(f"{stack.base_url}/docs")
    form = page.locator(".opblock").filter(has_text="Submit an image and the steps to run on it")
    form.locator(".opblock-summary-control").click()
    form.get_by_role("button", name="Try it out").click()
    photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": sideways_photo(60, 40, seed=971)}
    form.locator("input[type=file]").set_input_files(photo)
    yield form
    context.close()


def field(form, name: str):
    return form.locator(f'tr[data-property-name="{name}"] input[type=text]')


def execute(form) -> dict:
    """Send the form, and return the job from the answer."""
    with form.page.expect_response(re.compile("/api/jobs$")) as answered:
        form.get_by_role("button", name="Execute").click()
    answer = answered.value
    assert answer.status == 202, answer.text()
    expect(form.locator(".live-responses-table tbody .response-col_status")).to_contain_text("202")
    return answer.json()


def test_a_submission_is_accepted_as_the_form_is_filled_in(form):
    example = json.loads(field(form, "steps").input_value())

    job = execute(form)

    assert {name: step["op"] for name, step in job["steps"].items()} == {
        name: step["op"] for name, step in example.items()
    }
    assert job["source"]["name"] == "photo.jpg"


def test_operations_are_sent_as_the_json_that_was_typed(form):
    field(form, "steps").fill("")
    field(form, "operations").fill('["webp", "jpg"]')
    field(form, "operation_params").fill('{"webp": {"quality": 55}}')

    job = execute(form)

    assert job["steps"].keys() == {"webp", "jpg"}
    assert job["steps"]["webp"]["params"] == {"quality": 55}
