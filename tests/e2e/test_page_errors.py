"""The user's clock, a step name, an address, an answer of the service or the photo is wrong. The page still works."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from chromium import needs_chromium
from page_driver import (
    JOB_TIMEOUT_MS,
    add,
    assert_fits_a_phone,
    choose_photo,
    cut,
    dead_letters,
    download,
    noisy,
    photo,
    press,
    result,
    start,
    step,
    wait_until,
)
from playwright.sync_api import expect

from dag.plan import NAME, SOURCE
from pixtools.denoising.measured_noise import CLEAN_SIGMA

pytestmark = needs_chromium

CLOCK_20_MINUTES_FAST = """{
  const Real = Date;
  const ahead = 20 * 60 * 1000;
  window.Date = class extends Real {
    constructor(...given) { given.length ? super(...given) : super(Real.now() + ahead); }
    static now() { return Real.now() + ahead; }
  };
}"""

WEBP = {"webp": {"op": "webp", "input": "source"}}


@pytest.fixture
def no_dead_letters(api):
    """Discard the dead letters of earlier tests, so that the list shows only the dead letters of this test."""
    api.http.post("/api/dead-letters/discard", json={"all": True}).raise_for_status()


def submit(api, image, steps=WEBP):
    """Submit a job through the API, and return the job when it has ended."""
    return api.wait(api.submit(image["name"], image["buffer"], steps))


def submit_broken(api, seed, count):
    """Run a job of `count` steps. All steps fail, because the file of the photo is truncated."""
    steps = {f"web{quality}": {"op": "webp", "input": "source", "quality": quality} for quality in range(1, count + 1)}
    return submit(api, cut(seed), steps)


def problem(errors):
    """Return an answer with status 422 and the faults `errors`, as arguments for Playwright's `fulfill`."""
    title = "The request has fields that are missing, unknown or out of range"
    body = {"type": "/problems/invalid_request", "title": title, "status": 422, "code": "invalid_request"}
    body |= {"detail": "Correct these fields.", "errors": errors}
    return {"status": 422, "content_type": "application/problem+json", "body": json.dumps(body)}


def requests_of(page, method, pattern):
    """Return a list that is empty at first. Each later request with this method and a matching URL adds its URL."""
    seen = []
    page.on(
        "request",
        lambda sent: seen.append(sent.url) if sent.method == method and re.search(pattern, sent.url) else None,
    )
    return seen


def test_a_computer_clock_20_minutes_fast_does_not_prevent_a_download(blank_page, api, stack):
    job = submit(api, photo(101))
    blank_page.add_init_script(CLOCK_20_MINUTES_FAST)
    blank_page.goto(f"{stack.base_url}/#/jobs/{job['id']}")
    wait_until(blank_page, "succeeded")
    reads = requests_of(blank_page, "GET", f"/api/jobs/{job['id']}$")

    assert download(blank_page, "webp") == api.download(api.read(job), "webp")
    blank_page.wait_for_timeout(1000)  # a page that reads the job in a loop would send dozens of requests in this time
    assert len(reads) <= 1
    assert blank_page.faults == []


def test_an_expired_download_url_is_renewed_once_for_each_click(page, api):
    job = submit(api, photo(102))

    def answer_with_expired_urls(route):
        answer = route.fetch()
        body = answer.json()
        body["steps"]["webp"]["artifact"]["url_expires_at"] = "2020-01-01T00:00:00Z"
        route.fulfill(response=answer, json=body)

    page.route(f"**/api/jobs/{job['id']}", answer_with_expired_urls)
    page.evaluate("id => { location.hash = `#/jobs/${id}`; }", job["id"])
    wait_until(page, "succeeded")
    reads = requests_of(page, "GET", f"/api/jobs/{job['id']}$")

    for clicks in (1, 2):
        assert download(page, "webp") == api.download(api.read(job), "webp")
        page.wait_for_timeout(500)
        assert len(reads) == clicks
    assert page.faults == []


@pytest.mark.parametrize(
    ("name", "reason", "fault"),
    [
        ("a slash/", "To start, change the name “a slash/” of step 2.", "Use up to 64 letters"),
        ("-png", "To start, change the name “-png” of step 2.", "start with a letter or a digit"),
        ("größe", "To start, change the name “größe” of step 2.", "Use up to 64 letters (A to Z)"),
        ("source", "To start, change the name “source” of step 2.", "“source” is the name of the photo"),
        ("WEBP", "To start, give steps 1 and 2 different names.", "Step 1 is called webp, which differs only in case"),
        ("", "To start, give step 2 a name.", "Give this step a name."),
    ],
)
def test_a_bad_step_name_is_reported_at_its_field_before_the_start(page, name, reason, fault):
    choose_photo(page, photo(103))
    add(page, "WebP", "PNG")
    expect(page.locator("#start-reason")).to_have_text("Ready.")
    field = step(page, "png").get_by_label("Name")
    field.fill(name)
    field = page.get_by_label("Name").nth(1)

    expect(page.locator("#start-reason")).to_have_text(reason)
    expect(field).to_have_accessible_description(re.compile(re.escape(fault)))
    expect(field).to_have_attribute("aria-invalid", "true")
    start_button = page.get_by_role("button", name="Start", exact=True)
    expect(start_button).to_be_disabled()
    start_button.click(force=True)
    expect(page.get_by_label("Name").nth(1 if name != "WEBP" else 0)).to_be_focused()
    field.fill("png")
    expect(page.locator("#start-reason")).to_have_text("Ready.")
    expect(page.locator("#steps .field-error:visible")).to_have_count(0)
    start(page)
    wait_until(page, "succeeded")
    assert page.faults == []


def test_the_page_and_the_service_accept_the_same_step_names(page):
    names = ["a", "9", "A-b_c", "x" * 64, "x" * 65, "", "-a", "_a", "a b", "a/b", "a.b", "ä", "a\n", "source", "Source"]
    accepted = page.evaluate(
        """async (names) => {
          const { Draft } = await import("/static/draft.js");
          return names.filter((name) => {
            const draft = new Draft([]);
            draft.steps = [{ key: "step-0", op: "webp", name }];
            return draft.nameFault(draft.steps[0]) === null;
          });
        }""",
        names,
    )
    assert accepted == [name for name in names if NAME.fullmatch(name) and name != SOURCE]


def test_faults_of_the_service_are_shown_at_their_fields_and_the_first_on_the_page_is_focused(page):
    choose_photo(page, photo(104))
    add(page, "WebP", "AVIF", "PNG")
    faults = [
        {"pointer": "/steps/png/resize/width", "detail": "is too large for this photo"},
        {"pointer": "/steps/avif", "detail": "is not a valid name for a step"},
        {"pointer": "/steps/webp/effort", "detail": "is too high"},
        {"pointer": "/steps/webp", "detail": "its picture would be too large"},
        {"pointer": "/file", "detail": "has an unknown colour space"},
    ]
    page.route("**/api/jobs", lambda route: route.fulfill(**problem(faults)))
    start(page)

    expect(page.locator("#submission-problem")).to_contain_text("Correct these fields.")
    expect(page.locator("#submission-problem")).to_contain_text("file: has an unknown colour space")
    expect(page.locator("#submission-problem")).to_contain_text("4 fields marked in the form.")
    name = step(page, "avif").get_by_label("Name")
    expect(name).to_have_accessible_description("is not a valid name for a step")
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(step(page, "webp").get_by_label("Name")).not_to_have_attribute("aria-invalid", "true")
    expect(step(page, "webp")).to_have_accessible_description("its picture would be too large")
    expect(step(page, "png").get_by_label("Width")).to_have_attribute("aria-invalid", "true")
    expect(step(page, "webp").locator("[aria-invalid=true]")).to_be_focused()

    name.fill("small")
    expect(step(page, "small").locator(".field-error:visible")).to_have_count(0)


def test_a_picture_that_would_be_too_large_is_not_reported_as_a_bad_name(page):
    choose_photo(page, photo(105))
    add(page, "Resize", "PNG")
    for side in ("Width", "Height"):
        step(page, "resize").get_by_label(side).fill("16000")
    step(page, "resize").get_by_label("Fit").select_option("contain")
    start(page)

    expect(step(page, "resize")).to_have_accessible_description(re.compile("too large"))
    expect(step(page, "resize").get_by_label("Name")).not_to_have_attribute("aria-invalid", "true")
    expect(step(page, "resize").get_by_label("Width")).to_be_focused()


def test_retry_is_offered_only_while_a_dead_letter_of_the_job_is_open(page, api):
    choose_photo(page, cut(106))
    add(page, "WebP", "PNG")
    start(page)
    wait_until(page, "failed")
    retry = page.get_by_role("button", name="Retry", exact=True)
    expect(retry).to_be_visible()
    dead_letters(page, "cut-106.jpg").get_by_role("button", name=re.compile("^Discard 2 steps")).click()
    expect(retry).to_be_hidden()
    page.reload()
    wait_until(page, "failed")
    expect(retry).to_be_hidden()
    assert page.faults == []

    job = submit_broken(api, 107, 1)
    page.evaluate("id => { location.hash = `#/jobs/${id}`; }", job["id"])
    expect(retry).to_be_visible()
    api.http.post("/api/dead-letters/discard", json={"job": job["id"]}).raise_for_status()  # as if by another user
    retry.click()
    expect(page.locator("#job-problem")).to_be_visible()
    expect(retry).to_be_hidden()
    expect(page.locator("#job-title")).to_be_focused()


def test_a_photo_chosen_by_keyboard_leaves_the_focus_on_replace(page):
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Choose a photo").press("Enter")
    chooser.value.set_files(photo(108))
    expect(page.locator("#photo-name")).to_have_text("photo-108.jpg")
    replace = page.get_by_role("button", name="Replace photo")
    expect(replace).to_be_focused()

    with page.expect_file_chooser() as chooser:
        replace.press("Enter")
    chooser.value.set_files(photo(109))
    expect(page.locator("#photo-name")).to_have_text("photo-109.jpg")
    expect(replace).to_be_focused()
    page.get_by_role("button", name="Remove photo").press("Enter")
    expect(page.get_by_label("Choose a photo")).to_be_focused()


def test_a_link_that_is_followed_while_the_page_loads_leads_to_the_focused_view(blank_page, stack):
    held = []
    blank_page.route("**/api/operations", lambda route: held.append(route))  # noqa: PLW0108 (Playwright inspects it)
    with blank_page.expect_request("**/api/operations"):
        blank_page.goto(f"{stack.base_url}/")
    blank_page.get_by_role("link", name="Webhooks", exact=True).click()
    (request,) = held
    with blank_page.expect_response("**/api/operations"):
        request.continue_()

    expect(blank_page.locator("#webhooks-title")).to_be_focused()


@pytest.mark.parametrize("job", ["nonsense", str(uuid.UUID(int=1))])
def test_an_address_without_a_job_says_so_and_leads_back(blank_page, stack, job):
    blank_page.goto(f"{stack.base_url}/#/jobs/{job}")
    alert = blank_page.get_by_role("alert")
    expect(alert).to_contain_text("There is no such job")
    expect(alert).to_contain_text(job)
    expect(blank_page).to_have_title("No such job · PixTools")
    expect(blank_page.locator("#job-body")).to_be_hidden()
    assert_fits_a_phone(blank_page)
    alert.get_by_role("link", name="Start a new job").click()
    expect(blank_page.get_by_label("Choose a photo")).to_be_visible()
    expect(blank_page.locator("#build-title")).to_be_focused()


def test_a_problem_shows_each_of_its_faults(page, api):
    job = submit_broken(api, 110, 1)
    faults = [{"pointer": "/job", "detail": "is not known"}, {"pointer": "/limit", "detail": "is too large"}]
    page.route("**/retry", lambda route: route.fulfill(**problem(faults)))
    page.evaluate("id => { location.hash = `#/jobs/${id}`; }", job["id"])
    press(page, "Retry")
    expect(page.locator("#job-problem li")).to_have_text(["job: is not known", "limit: is too large"])


def test_every_visible_label_is_part_of_the_accessible_name(page, api):
    submit_broken(api, 111, 3)
    page.reload()
    choose_photo(page, noisy(112))
    add(page, "JPG", "JPG", "Denoise", "ZIP")
    expect(page.locator(".operation .count:visible")).to_have_text(["2", "1", "1"])  # counts are outside the buttons
    assert labels_missing_from_names(page) == []
    start(page)
    wait_until(page, "succeeded")
    assert labels_missing_from_names(page) == []


def labels_missing_from_names(page):
    """Return the text and the aria-label of each control that violates WCAG 2.5.3: the aria-label lacks the text."""
    return page.locator(":is(button, a)[aria-label]").evaluate_all(
        """controls => controls
          .map((control) => [control.innerText.trim().toLowerCase(), control.ariaLabel.toLowerCase()])
          .filter(([text, name]) => !name.includes(text))"""
    )


def test_denoising_a_photo_with_hardly_any_noise_says_that_little_changed(page):
    choose_photo(page, noisy(113, deviation=1.5))
    add(page, "Denoise")
    start(page)
    wait_until(page, "succeeded")
    expect(result(page, "denoise").locator(".result-summary").first).to_have_text(
        re.compile(
            r"^hardly any noise found \(sigma [01](\.\d)? of 255 levels\)"
            " · denoised, but you may see little or no change$"
        ),
    )
    summaries = page.evaluate(
        """async (levels) => {
          const { resultSummary } = await import("/static/format.js");
          return [
            ...levels.map((sigma) => resultSummary({ sigma, denoised: true })),
            resultSummary({ sigma: null, denoised: false, skipped: "unmeasured" }),
          ];
        }""",
        [0, CLEAN_SIGMA - 0.1, CLEAN_SIGMA, None],
    )
    *measured, unmeasured = summaries
    assert measured == [
        "no noise found · denoised, but you may see little or no change",
        "hardly any noise found (sigma 1.9 of 255 levels) · denoised, but you may see little or no change",
        "noise found (sigma 2 of 255 levels) · denoised",
        "noise not measured · denoised",
    ]
    assert unmeasured == (
        "noise not measured · no part of the picture can be measured, so the picture was not changed. To denoise it "
        "anyway, set Noise to “any”"
    )


@pytest.mark.usefixtures("no_dead_letters")
def test_ten_failed_steps_of_one_photo_make_one_row_of_dead_letters(page, api):
    submit_broken(api, 114, 10)
    submit_broken(api, 115, 1)
    page.reload()
    row = dead_letters(page, "cut-114.jpg")
    expect(row).to_have_count(1)
    expect(row.locator(".dead-letter-steps strong")).to_have_count(10)
    posts = requests_of(page, "POST", "/api/dead-letters")

    row.get_by_role("button", name="Redrive 10 steps of cut-114.jpg").click()
    expect(row).to_contain_text("tried 2 times", timeout=JOB_TIMEOUT_MS)
    expect(row.locator(".dead-letter-steps strong")).to_have_count(10, timeout=JOB_TIMEOUT_MS)
    expect(row).to_have_count(1)
    row.get_by_text("History").click()
    expect(row.get_by_role("heading", level=4)).to_have_count(10)
    row.get_by_role("button", name="Discard 10 steps of cut-114.jpg").click()
    expect(row).to_have_count(0)
    assert [url.rpartition("/")[2] for url in posts] == ["redrive", "discard"]  # one request for all ten steps
    expect(dead_letters(page, "cut-115.jpg")).to_contain_text("tried once")
    assert page.faults == []


@pytest.mark.usefixtures("no_dead_letters")
def test_a_row_acts_only_on_its_own_cause_even_if_the_error_code_is_the_same(page, api):
    job = submit_broken(api, 116, 3)

    def answer_with_another_detail(route):
        answer = route.fetch()
        body = answer.json()
        for entry in body["dead_letters"]:
            if entry["step"] == "web2":
                entry["error"]["detail"] = "The frame 7 is incomplete."
        route.fulfill(response=answer, json=body)

    page.route("**/api/dead-letters?*", answer_with_another_detail)
    page.reload()
    rows = dead_letters(page, "cut-116.jpg")
    expect(rows).to_have_count(2)
    rows.get_by_role("button", name="Discard 2 steps of cut-116.jpg").click()
    expect(rows).to_have_count(1)
    expect(rows.locator(".dead-letter-steps strong")).to_have_text(["web2"])
    left = api.http.get("/api/dead-letters", params={"job": job["id"]}).json()["dead_letters"]
    assert [entry["step"] for entry in left] == ["web2"]


@pytest.mark.usefixtures("no_dead_letters")
def test_a_row_acts_only_on_the_dead_letters_that_the_list_has_loaded(page, api):
    submit_broken(api, 117, 25)
    page.reload()
    names = dead_letters(page, "cut-117.jpg").locator(".dead-letter-steps strong")
    expect(names).to_have_count(20)  # one page of the list
    press(page, "Discard 20 steps of cut-117.jpg")
    expect(names).to_have_count(5)
    assert page.faults == []
