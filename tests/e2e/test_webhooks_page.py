"""Webhooks on the page: endpoints, their secrets, deliveries, and dead letters of deliveries.

The tests share one service and one page, and each test goes on where the test before it has ended.
"""

from __future__ import annotations

import re

import pytest
from chromium import needs_chromium
from page_driver import add, assert_fits_a_phone, choose_photo, dead_letters, photo, press, start, wait_until
from playwright.sync_api import Locator, Page, expect
from receivers import receiver, status
from service import Stack

from pixtools.states import DeliveryState
from pixtools.webhooks.events import CHOSEN_EVENTS

pytestmark = needs_chromium

DELIVERY_TIMEOUT_MS = 20_000  # the page loads the deliveries every 5 seconds


@pytest.fixture(scope="module")
def stack(open_folder):
    """A service that may send webhooks to receivers on this machine."""
    running = Stack(open_folder / "webhooks", extra_env={"PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS": "1"})
    running.launch()
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def page(browser, stack):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=stack.base_url)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto("/")
    yield page
    context.close()


@pytest.fixture(scope="module")
def hook():
    """The receiver that the tests register."""
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def other():
    """The receiver for the webhook URL of a job."""
    with receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults(page):
    """Check after each test that the page had no exception and no console error."""
    page.faults.clear()
    yield
    assert page.faults == []


def endpoint(page: Page, url: str) -> Locator:
    return page.locator("#webhook-list > li").filter(has=page.get_by_role("heading", name=url, exact=True))


def deliveries(page: Page, event: str, url: str) -> Locator:
    rows = page.locator("#delivery-list > li")
    return rows.filter(has=page.get_by_text(event, exact=True)).filter(has=page.get_by_text(url, exact=True))


def open_webhooks(page: Page) -> None:
    page.get_by_role("link", name="Webhooks", exact=True).click()
    expect(page.locator("#webhooks-title")).to_be_focused()


def run_job(page: Page, seed: int) -> None:
    """Run a job of one step from the form."""
    choose_photo(page, photo(seed))
    if page.get_by_role("group", name="Step webp", exact=True).count() == 0:
        add(page, "WebP")
    start(page)
    wait_until(page, "succeeded")


def test_a_registered_endpoint_shows_its_secret_once(page, hook):
    open_webhooks(page)
    expect(page.get_by_text("No endpoints yet.")).to_be_visible()
    page.get_by_text("Register an endpoint").click()
    page.get_by_label("URL", exact=True).fill("ftp://receiver.example")
    press(page, "Register")
    expect(page.get_by_label("URL", exact=True)).to_have_accessible_description(re.compile("must begin with http"))
    expect(page.get_by_label("URL", exact=True)).to_be_focused()
    page.faults.clear()  # the console reports every answer with an error status

    page.get_by_label("URL", exact=True).fill(hook.url)
    boxes = page.get_by_role("group", name="Events").get_by_role("checkbox")
    for box in boxes.all():
        box.uncheck()
    press(page, "Register")
    expect(boxes.first).to_be_focused()
    expect(page.locator("#endpoint-events-error")).to_be_visible()
    page.faults.clear()

    for box in boxes.all():
        box.check()
    page.get_by_label("Description").fill("the shop")
    press(page, "Register")
    secret = page.get_by_role("region", name=f"Secret of {hook.url}")
    expect(secret).to_contain_text("not shown again")
    text = secret.locator("code").inner_text()
    assert text.startswith("whsec_")
    press(page, "Copy the secret")
    expect(secret.get_by_role("button", name="Copied")).to_be_focused()
    assert page.evaluate("navigator.clipboard.readText()") == text
    press(page, "Hide the secret")
    expect(secret).to_be_hidden()

    row = endpoint(page, hook.url)
    expect(row).to_contain_text("the shop")
    expect(row).to_contain_text("Circuit breaker: closed")
    expect(row.locator(".badge")).to_have_text("enabled")
    expect(row.get_by_role("list", name="Events").get_by_role("listitem")).to_have_count(5)
    assert text not in page.content()


def test_a_test_shows_its_result(page, hook):
    endpoint(page, hook.url).get_by_role("button", name="Send a test").click()
    delivered = re.compile(r"Test delivered: status 204, \d+ ms\.")
    expect(endpoint(page, hook.url)).to_contain_text(delivered, timeout=DELIVERY_TIMEOUT_MS)
    expect(deliveries(page, "webhook.test", hook.url)).to_contain_text("delivered", timeout=DELIVERY_TIMEOUT_MS)
    assert len(hook.received) == 1


def test_a_rotated_secret_is_shown_and_the_previous_one_still_signs(page, hook):
    rotate = endpoint(page, hook.url).get_by_role("button", name="Rotate secret")
    rotate.click()
    question = page.get_by_role("dialog", name="Replace the secret?")
    expect(question).to_contain_text(hook.url)
    question.get_by_role("button", name="Keep it").click()
    expect(rotate).to_be_focused()
    expect(page.locator("#secret")).to_be_hidden()

    rotate.click()
    question.get_by_role("button", name="Replace").click()
    expect(page.get_by_role("region", name=f"Secret of {hook.url}")).to_contain_text("The previous secret also signs")
    press(page, "Hide the secret")
    endpoint(page, hook.url).get_by_role("button", name="Send a test").click()
    expect(endpoint(page, hook.url)).to_contain_text("Test delivered", timeout=DELIVERY_TIMEOUT_MS)
    assert len(hook.received[-1].headers["webhook-signature"].split()) == 2


def test_the_secret_for_the_webhook_urls_of_jobs_is_replaced(page):
    page.get_by_text("Secret for the webhook URLs of jobs").click()
    press(page, "New secret for jobs")
    press(page, "Replace")
    secret = page.get_by_role("region", name="Secret of the webhook URLs of jobs")
    expect(secret.locator("code")).to_have_text(re.compile("^whsec_"))
    expect(secret.get_by_role("heading")).to_be_focused()
    press(page, "Hide the secret")


def test_the_page_and_the_service_have_the_same_events_and_states(page):
    events = page.locator("#endpoint-events input").evaluate_all("boxes => boxes.map(box => box.value)")
    assert events == list(CHOSEN_EVENTS)
    states = page.locator("#delivery-state option").evaluate_all("options => options.map(option => option.value)")
    assert states == ["", *DeliveryState]


def test_an_endpoint_is_disabled_and_enabled(page, hook):
    row = endpoint(page, hook.url)
    row.get_by_role("button", name=f"Disable {hook.url}").press("Enter")
    expect(row.locator(".badge")).to_have_text("disabled")
    expect(row.get_by_role("button", name=f"Enable {hook.url}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row.locator(".badge")).to_have_text("enabled")


def test_a_webhook_url_that_the_service_refuses_is_marked_and_survives_a_reload(page):
    page.get_by_role("link", name="PixTools").click()
    field = page.get_by_label("Webhook URL", exact=True)
    expect(field).to_be_hidden()
    page.locator(".build-more > summary").click()
    field.fill("ftp://receiver.example")
    page.reload()
    choose_photo(page, photo(201))
    add(page, "WebP")
    expect(field).to_have_value("ftp://receiver.example")
    start(page)
    expect(field).to_have_accessible_description(re.compile("must begin with http"))
    expect(field).to_be_focused()
    page.faults.clear()


def test_a_job_with_a_webhook_url_has_two_delivered_deliveries(page, hook, other):
    page.get_by_label("Webhook URL", exact=True).fill(other.url)
    run_job(page, 202)
    open_webhooks(page)
    for url in (hook.url, other.url):
        row = deliveries(page, "job.succeeded", url)
        expect(row).to_contain_text("delivered", timeout=DELIVERY_TIMEOUT_MS)
        expect(row).to_contain_text("tried once")

    row = deliveries(page, "job.succeeded", other.url)
    row.locator("summary").press("Enter")
    expect(row.get_by_role("list", name="Attempts")).to_contain_text(re.compile(r"Attempt 1.*status 204, \d+ ms"))
    row.get_by_role("link", name="Show the job").click()
    wait_until(page, "succeeded")


def test_a_receiver_that_is_gone_disables_its_endpoint_and_makes_dead_letters(page, hook, other):
    hook.answer = other.answer = status(410, b"no such shop")
    press(page, "Same steps, another photo")
    expect(page.get_by_label("Webhook URL", exact=True)).to_have_value(other.url)
    run_job(page, 203)
    open_webhooks(page)
    for url in (hook.url, other.url):
        failed = deliveries(page, "job.succeeded", url).first
        expect(failed).to_contain_text("failed", timeout=DELIVERY_TIMEOUT_MS)
    failed.locator("summary").click()
    expect(failed).to_contain_text("no such shop")
    expect(endpoint(page, hook.url).locator(".badge")).to_have_text("disabled", timeout=DELIVERY_TIMEOUT_MS)
    expect(endpoint(page, hook.url)).to_contain_text("The receiver answered 410 (Gone).")

    letter = dead_letters(page, "photo-203.jpg")
    expect(letter.locator(".dead-letter-steps li")).to_have_text(
        sorted([f"{hook.url} webhook", f"{other.url} webhook"]), timeout=DELIVERY_TIMEOUT_MS
    )
    expect(letter).to_contain_text("The receiver of a webhook did not accept the event")
    expect(letter).to_contain_text("tried once")
    assert_fits_a_phone(page)
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_log_is_filtered_by_state_and_endpoint(page, hook, other):
    rows = page.locator("#delivery-list > li")
    page.get_by_label("State").select_option("failed")
    expect(rows).to_have_count(2)
    page.get_by_label("Endpoint", exact=True).select_option(label=hook.url)
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(hook.url)
    page.get_by_label("State").select_option("sending")
    expect(page.get_by_text("No delivery matches these filters.")).to_be_visible()
    page.get_by_label("State").select_option("all")
    page.get_by_label("Endpoint", exact=True).select_option("all")
    expect(deliveries(page, "job.succeeded", other.url)).to_have_count(2)


def test_a_failed_delivery_is_sent_again_and_its_dead_letter_is_closed(page, other):
    other.answer = status(204)
    row = deliveries(page, "job.succeeded", other.url).first
    again = row.get_by_role("button", name="Send again: job.succeeded")
    again.click()
    expect(row).to_contain_text("delivered", timeout=DELIVERY_TIMEOUT_MS)
    expect(row).to_contain_text("tried 2 times")
    expect(row.get_by_role("list", name="Attempts").get_by_role("listitem")).to_have_count(2)
    assert other.received[-1].headers["webhook-id"] == other.received[-2].headers["webhook-id"]
    expect(dead_letters(page, "photo-203.jpg").locator(".dead-letter-steps li")).to_have_count(
        1, timeout=DELIVERY_TIMEOUT_MS
    )


def test_a_delivery_that_has_not_ended_is_not_sent_again(page, other):
    """Somebody else has sent the delivery again, and the page does not know this yet."""
    row = deliveries(page, "job.succeeded", other.url).first
    delivery = row.get_attribute("data-key")
    before = page.request.get("/api/deliveries?limit=20").text()
    page.route("**/api/deliveries?*", lambda route: route.fulfill(body=before, content_type="application/json"))
    other.answer = status(204, after_s=3)
    page.request.post(f"/api/deliveries/{delivery}/replay")
    row.get_by_role("button", name="Send again: job.succeeded").click()
    expect(page.locator("#deliveries-problem")).to_contain_text("The delivery cannot be sent again")
    page.unroute("**/api/deliveries?*")
    page.faults.clear()


def test_a_dead_letter_of_a_delivery_is_redriven(page, hook):
    hook.answer = status(204)
    endpoint(page, hook.url).get_by_role("button", name=f"Enable {hook.url}").click()
    letter = dead_letters(page, "photo-203.jpg")
    letter.get_by_role("button", name=f"Redrive {hook.url} of photo-203.jpg").click()
    expect(letter).to_have_count(0, timeout=DELIVERY_TIMEOUT_MS)
    expect(deliveries(page, "job.succeeded", hook.url).first).to_contain_text("delivered", timeout=DELIVERY_TIMEOUT_MS)


def test_an_endpoint_is_deleted_after_a_question(page, hook):
    endpoint(page, hook.url).get_by_role("button", name=f"Delete {hook.url}").click()
    question = page.get_by_role("dialog", name="Delete this endpoint?")
    expect(question).to_contain_text(hook.url)
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(endpoint(page, hook.url)).to_have_count(1)
    endpoint(page, hook.url).get_by_role("button", name=f"Delete {hook.url}").click()
    question.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No endpoints yet.")).to_be_visible()
    expect(page.locator("#webhooks-title")).to_be_focused()
    expect(deliveries(page, "job.succeeded", hook.url)).to_have_count(0, timeout=DELIVERY_TIMEOUT_MS)
