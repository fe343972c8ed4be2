"""The page in a real browser, with the whole service: forms, jobs, results and dead letters."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pytest
from chromium import needs_chromium
from images import saved
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
    toggle_more,
    wait_until,
)
from PIL import Image
from playwright.sync_api import expect
from sideways import is_upright, sideways_photo

pytestmark = needs_chromium


def test_a_photo_becomes_webp_avif_and_metadata_by_five_clicks(page):
    choose_photo(page, photo(1))
    add(page, "WebP", "AVIF", "Metadata")
    start(page)
    wait_until(page, "succeeded")

    for name in ("webp", "avif"):
        expect(result(page, name)).to_contain_text("640 × 480")
        expect(result(page, name)).to_contain_text(re.compile(r"\d+ % (smaller|larger)|same size"))
    expect(result(page, "metadata").get_by_role("definition").filter(has_text="640")).to_be_visible()
    expect(page.locator("#history a").first).to_contain_text("succeeded")

    picture = Image.open(io.BytesIO(download(page, "webp")))
    assert (picture.format, picture.size) == ("WEBP", (640, 480))
    shown = page.locator(".result img").evaluate_all(
        "async images => { await Promise.all(images.map(i => i.decode())); return images.map(i => i.naturalWidth); }"
    )
    assert shown == [640, 640]
    assert page.faults == []


def test_a_graph_of_a_12_megapixel_photo_on_its_side_can_be_built_by_hand(page):
    data = sideways_photo(3000, 4000, seed=2)
    choose_photo(page, {"name": "IMG_1.jpg", "mimeType": "image/jpeg", "buffer": data})
    add(page, "ZIP", "WebP", "AVIF", "Metadata", "PNG")  # the page puts later steps above the ZIP
    step(page, "webp").get_by_label("Width").fill("1280")
    step(page, "avif").get_by_label("Width").fill("320")
    for old, new in (("webp", "web"), ("avif", "small"), ("metadata", "exif"), ("zip", "all")):
        step(page, old).get_by_label("Name").fill(new)
    for name in ("web", "small", "exif", "png"):
        expect(step(page, "all").get_by_label(name, exact=True)).to_be_checked()
    step(page, "all").get_by_label("png", exact=True).uncheck()
    start(page)
    wait_until(page, "succeeded")

    for name, size in (("web", (1280, 1707)), ("small", (320, 427)), ("png", (3000, 4000))):
        expect(result(page, name)).to_contain_text(f"{size[0]} × {size[1]}")
        picture = Image.open(io.BytesIO(download(page, name)))
        assert picture.size == size
        assert is_upright(picture)
    with zipfile.ZipFile(io.BytesIO(download(page, "all"))) as bundle:
        assert sorted(bundle.namelist()) == ["IMG_1-exif.json", "IMG_1-small.avif", "IMG_1-web.webp"]
    assert page.faults == []


def test_a_name_in_a_hint_is_shown_as_code(page):
    add(page, "Resize")

    hint = step(page, "resize").locator(".hint", has_text="keeps the proportions").first
    expect(hint.locator("code").first).to_have_text("inside")
    expect(hint).not_to_contain_text("`")


def test_a_resize_without_a_size_says_what_is_missing(page):
    choose_photo(page, photo(5))
    add(page, "Resize")
    expect(page.locator("#start-reason")).to_have_text("To start, give step resize a width or a height.")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()

    step(page, "resize").get_by_label("Height").fill("200")
    expect(page.locator("#start-reason")).to_have_text("Ready.")


def test_a_choice_and_a_colour_of_the_form_are_in_the_result(page):
    choose_photo(page, photo(12))  # 640 x 480
    add(page, "Resize", "PNG")
    resize = step(page, "resize")
    for side in ("Width", "Height"):
        resize.get_by_label(side).fill("300")
    resize.get_by_label("Fit").select_option("contain")
    toggle_more(page, "resize")
    resize.get_by_label("Background picker").fill("#00ff00")
    expect(resize.get_by_label("Background", exact=True)).to_have_value("#00ff00")
    start(page)
    wait_until(page, "succeeded")

    picture = Image.open(io.BytesIO(download(page, "png"))).convert("RGB")
    assert picture.size == (300, 300)
    assert picture.getpixel((150, 5)) == (0, 255, 0)  # the margin above the photo
    assert picture.getpixel((150, 150)) != (0, 255, 0)
    page.get_by_role("button", name="Same steps, another photo").click()
    expect(resize.get_by_label("Background", exact=True)).to_have_value(
        "#00ff00"
    )  # the page unfolds the parameter, because its value is not the default
    resize.get_by_role("button", name="None").click()
    expect(resize.get_by_label("Background", exact=True)).to_have_value("")
    assert page.faults == []


@pytest.mark.parametrize("by", ["the browser", "the service"])
def test_an_error_at_a_folded_parameter_is_unfolded_and_focused(page, by):
    choose_photo(page, photo(13))
    add(page, "Resize")
    step(page, "resize").get_by_label("Width").fill("300")
    expect(step(page, "resize").get_by_label("Background", exact=True)).to_be_hidden()
    toggle_more(page, "resize")
    step(page, "resize").get_by_label("Background", exact=True).fill("red")
    toggle_more(page, "resize")
    if by == "the service":
        page.evaluate("document.getElementById('build').noValidate = true")
    start(page)

    expect(step(page, "resize").get_by_label("Background", exact=True)).to_be_visible()
    expect(step(page, "resize").get_by_label("Background", exact=True)).to_be_focused()
    if by == "the service":
        expect(step(page, "resize").locator(".field-error:visible")).to_have_count(1)


def test_an_image_chosen_in_the_form_is_put_on_the_photo_and_must_be_chosen_again_for_another(page):
    red = saved(np.full((40, 40, 3), (255, 0, 0), dtype=np.uint8), "PNG")
    logo = {"name": "Our logo.png", "mimeType": "image/png", "buffer": red}
    add(page, "Watermark", "PNG")
    step(page, "watermark").get_by_label("Image").set_input_files(logo)
    expect(step(page, "watermark")).to_contain_text("Our logo.png")
    page.reload()
    choose_photo(page, photo(14))  # 640 x 480
    expect(step(page, "watermark")).to_contain_text("Choose “Our-logo” again")
    expect(page.locator("#start-reason")).to_have_text("To start, choose the file of step watermark again.")

    step(page, "watermark").get_by_label("Image").set_input_files(logo)
    step(page, "watermark").get_by_label("Opacity", exact=True).fill("1")
    step(page, "watermark").locator(".position[title=top-left]").click()
    expect(step(page, "watermark").get_by_label("Position")).to_have_value('"top-left"')
    expect(page.locator("#start-reason")).to_have_text("Ready.")
    start(page)
    wait_until(page, "succeeded")
    expect(page.locator("#job-source")).to_contain_text("with Our-logo-2 (PNG")
    picture = Image.open(io.BytesIO(download(page, "png"))).convert("RGB")
    assert picture.getpixel((60, 60)) == (255, 0, 0)
    assert picture.getpixel((400, 400)) != (255, 0, 0)

    page.get_by_role("button", name="Same steps, another photo").click()
    expect(step(page, "watermark")).to_contain_text("Choose “Our-logo-2” again")
    step(page, "watermark").get_by_role("button", name="Remove", exact=True).last.click()
    expect(step(page, "watermark")).not_to_contain_text("Choose “Our-logo-2” again")
    assert page.faults == []


def test_the_result_tells_how_the_goals_of_the_form_were_reached(page):
    coarse = saved(Image.open(io.BytesIO(photo(15)["buffer"])), "JPEG", quality=20)
    choose_photo(page, photo(15) | {"buffer": coarse})
    add(page, "WebP", "AVIF")
    step(page, "webp").get_by_label("Target").fill("75")
    step(page, "avif").get_by_label("Quality", exact=True).fill("100")
    toggle_more(page, "avif")
    step(page, "avif").get_by_label("Keep smaller").check()
    start(page)
    wait_until(page, "succeeded")

    expect(result(page, "webp")).to_contain_text(
        re.compile(r"quality \d+ · score 7\d\.?\d? \(SSIMULACRA2\) · \d encodes?")
    )
    expect(result(page, "avif")).to_contain_text(
        re.compile(r"quality \d\d?, lowered to be no larger than the source · \d encodes"),
    )
    expect(result(page, "avif")).to_contain_text(re.compile("smaller|same size"))
    assert page.faults == []


def test_a_noisy_photo_is_denoised_and_the_result_tells_its_noise(page):
    choose_photo(page, noisy(16))
    press(page, "Less noise, as JPG")
    start(page)
    wait_until(page, "succeeded")
    expect(result(page, "denoise").locator(".result-summary")).to_have_text(
        re.compile(r"^noise found \(sigma (1[6-9]|2[01])(\.\d)? of 255 levels\) · denoised$"),
    )
    picture = np.asarray(Image.open(io.BytesIO(download(page, "jpg"))).convert("RGB"))
    assert picture.std(axis=0).mean() < 10  # without noise, all rows of the photo would be equal

    press(page, "Same steps, another photo")
    choose_photo(page, photo(17))
    step(page, "denoise").get_by_label("Noise", exact=True).select_option('"auto"')
    start(page)
    wait_until(page, "succeeded")
    expect(result(page, "denoise")).to_contain_text(
        "the picture looks clean, so it was not changed. To denoise it anyway, set Noise to “any”"
    )
    assert page.faults == []


def test_before_and_after_are_compared_by_an_edge_that_the_keyboard_moves(page):
    page.set_viewport_size({"width": 390, "height": 844})
    choose_photo(page, noisy(18))
    add(page, "Denoise")
    start(page)
    wait_until(page, "succeeded")
    edge = result(page, "denoise").get_by_role("slider", name="Edge between before and after")
    expect(edge).to_have_attribute("aria-valuetext", "source in the left 50 %, result in the rest")
    edge.press("ArrowLeft")
    expect(edge).to_have_attribute("aria-valuetext", "source in the left 49 %, result in the rest")
    expect(page.locator(".comparison-before")).to_have_css(
        "clip-path", re.compile(r"inset\(0(px)? calc\(51%|inset\(0(px)? 51%")
    )
    edge.press("Home")
    expect(edge).to_have_value("0")
    press(page, "Actual pixels")
    expect(page.get_by_role("button", name="Actual pixels")).to_have_attribute("aria-pressed", "true")
    shown = page.locator(".comparison").evaluate(
        "node => [node.offsetWidth * devicePixelRatio, node.parentElement.scrollLeft]"
    )
    assert shown[0] == pytest.approx(500, abs=1)
    assert shown[1] > 0  # the page scrolls to the middle of the picture
    assert_fits_a_phone(page)

    page.reload()  # the page loses the photo, and the service does not send it back
    expect(result(page, "denoise").get_by_alt_text("Result denoise")).to_be_visible()
    expect(result(page, "denoise")).to_contain_text("only in the browser tab that sent the photo")
    expect(page.locator(".comparison")).to_have_count(0)
    assert page.faults == []


def test_an_encoder_added_after_a_resize_reads_it(page):
    add(page, "Resize", "WebP", "Metadata")
    for name, read in (("webp", "resize"), ("metadata", "source (your photo)")):
        expect(step(page, name).get_by_label("Input").locator("option:checked")).to_have_text(read)

    page.reload()
    expect(step(page, "webp").get_by_label("Input").locator("option:checked")).to_have_text("resize")


def test_a_heic_photo_that_the_browser_cannot_show_is_accepted(page):
    choose_photo(page, {"name": "IMG_1.HEIC", "mimeType": "", "buffer": b"ftypheic"})
    expect(page.get_by_text("This browser cannot show the photo")).to_be_visible()
    expect(page.locator("#photo-note")).to_be_hidden()


def test_a_text_file_named_png_is_refused_beside_the_start_button(page):
    text = {"name": "notes.png", "mimeType": "image/png", "buffer": b"This is not a picture.\n" * 20}
    choose_photo(page, text)
    add(page, "WebP")
    start(page)

    expect(page.locator("#submission-problem")).to_be_visible()
    expect(page.locator("#submission-problem")).to_be_focused()
    expect(page.locator("#photo-name")).to_have_text("notes.png")
    expect(step(page, "webp")).to_be_visible()


def test_a_job_is_still_shown_after_a_reload_and_its_steps_can_be_used_for_another_photo(page):
    choose_photo(page, photo(4))
    add(page, "WebP")
    step(page, "webp").get_by_label("Quality", exact=True).fill("55")
    start(page)
    expect(page.locator("#job-title")).to_be_focused()
    page.reload()

    expect(page.get_by_role("heading", name="photo-4.jpg")).to_be_visible()
    wait_until(page, "succeeded")
    page.get_by_role("button", name="Same steps, another photo").click()
    expect(step(page, "webp").get_by_label("Quality", exact=True)).to_have_value("55")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    assert page.faults == []


def test_a_running_job_is_cancelled_and_keeps_what_it_made(page):
    data = sideways_photo(3000, 4000, seed=6)
    choose_photo(page, {"name": "slow.jpg", "mimeType": "image/jpeg", "buffer": data})
    add(page, "Metadata", "AVIF")
    toggle_more(page, "avif")
    step(page, "avif").get_by_label("Speed", exact=True).fill("0")  # so the step takes minutes
    start(page)
    expect(page.locator("#job-done")).to_have_text("1 of 2 steps done", timeout=JOB_TIMEOUT_MS)
    press(page, "Cancel")
    wait_until(page, "cancelled")

    expect(page.locator("#job-title")).to_be_focused()  # the button Cancel had the focus and is now hidden
    expect(page.get_by_role("button", name=re.compile("^(Cancel|Retry)$"))).to_have_count(0)
    expect(page.locator("#job-kept")).to_contain_text("This job was cancelled")
    expect(page.locator("#job-steps")).to_contain_text("cancelled")
    expect(page.locator("#history li").filter(has_text="slow.jpg")).to_contain_text("cancelled")
    assert json.loads(download(page, "metadata"))["width"] == 3000
    assert page.faults == []


def test_a_step_that_failed_permanently_can_be_redriven_or_discarded(page):
    choose_photo(page, cut(7))
    add(page, "WebP")
    start(page)
    wait_until(page, "failed")
    row = dead_letters(page, "cut-7.jpg")
    expect(row).to_contain_text("The image is damaged or incomplete and cannot be decoded")
    expect(row).to_contain_text("Check that it opens in a viewer")
    expect(row).to_contain_text("tried once")
    assert page.faults == []

    row.get_by_role("button", name="Redrive webp of cut-7.jpg").press("Enter")
    expect(row).to_contain_text("tried 2 times", timeout=JOB_TIMEOUT_MS)
    expect(page.locator("#job-steps")).to_contain_text("attempt 2")  # shown because the page follows the job again
    expect(page.locator("main :focus")).to_have_count(1)  # the pressed button is gone, so another element has the focus
    row.get_by_text("History").click()
    expect(row.locator("details li strong")).to_have_text(
        ["failed", "became a dead letter", "redriven", "failed", "became a dead letter"],
    )
    assert_fits_a_phone(page)

    row.get_by_role("button", name="Discard webp of cut-7.jpg").click()
    expect(row).to_have_count(0)
    assert page.faults == []


def test_a_failed_job_is_retried_and_followed_to_its_end(page):
    choose_photo(page, cut(8))
    add(page, "Metadata", "WebP", "PNG", "ZIP")
    start(page)
    wait_until(page, "partly succeeded")
    expect(dead_letters(page, "cut-8.jpg").locator(".dead-letter-steps strong")).to_have_text(["png", "webp"])
    press(page, "Retry")

    steps = page.locator("#job-steps > li")
    for name in ("webp", "png"):
        failed = steps.filter(has=page.get_by_text(name, exact=True)).filter(has_text=re.compile("failed.*attempt"))
        expect(failed).to_have_count(1, timeout=JOB_TIMEOUT_MS)
    wait_until(page, "partly succeeded")
    expect(dead_letters(page, "cut-8.jpg")).to_contain_text("tried 2 times")
    expect(result(page, "metadata")).to_be_visible()
    assert page.faults == []


def test_all_dead_letters_are_redriven_and_discarded_at_once(page, api):
    image = cut(9)
    steps = {f"web{quality}": {"op": "webp", "input": "source", "quality": quality} for quality in range(1, 26)}
    api.wait(api.submit(image["name"], image["buffer"], steps))
    page.reload()
    names = dead_letters(page, "cut-9.jpg").locator(".dead-letter-steps li")
    expect(names).to_have_count(20)  # one page of the list
    press(page, "More dead letters")
    expect(names).to_have_count(25)

    press(page, "Discard all")
    question = page.get_by_role("dialog", name="Discard all dead letters?")
    expect(question.get_by_role("button", name="Keep them")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(page.get_by_role("button", name="Discard all", exact=True)).to_be_focused()
    expect(names).to_have_count(25)

    press(page, "Discard all")
    question.get_by_role("button", name="Discard all").click()
    expect(page.get_by_role("heading", name="Dead letters")).to_be_hidden()
    expect(page.get_by_role("heading", name="Recent jobs")).to_be_focused()

    for image in (cut(10), cut(11)):
        api.wait(api.submit(image["name"], image["buffer"], {"webp": {"op": "webp", "input": "source"}}))
    page.reload()
    press(page, "Redrive all")
    for name in ("cut-10.jpg", "cut-11.jpg"):
        expect(dead_letters(page, name)).to_contain_text("tried 2 times", timeout=JOB_TIMEOUT_MS)
    assert page.faults == []


def test_someone_who_leaves_the_form_during_the_upload_is_not_called_back(page):
    held = []
    page.route("**/api/jobs", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    choose_photo(page, photo(560))
    add(page, "WebP")
    start(page)
    page.get_by_role("link", name="Webhooks", exact=True).click()
    expect(page.locator("#webhooks-title")).to_be_focused()
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        held[0].continue_()
    job = page.get_by_role("link", name=re.compile("photo-560.jpg"))
    expect(job).to_have_count(1)  # the list of recent jobs has the new job
    expect(page).to_have_url(re.compile("#/webhooks$"))
    expect(page.locator("#webhooks-title")).to_be_visible()
    assert page.faults == []


def test_nothing_is_wider_than_a_phone(page):
    add(page, "WebP", "AVIF", "Metadata", "PNG", "ZIP")
    assert_fits_a_phone(page)
