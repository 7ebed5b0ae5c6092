"""A customer's whole way, by mouse and keyboard: from a zip to pictures with two LoRAs."""

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import TIMEOUT_MS, Visitor

expect.set_options(timeout=TIMEOUT_MS)
JOB_MS = 150_000

# Playwright has no hand that drags files from outside: this makes the event that one makes.
DRAG = """([name, packed]) => {
    const bytes = Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "application/zip" }));
    return transfer;
}"""


@pytest.fixture(scope="module")
def page(customer: Visitor) -> Page:
    """The customer's one tab, from page to page."""
    return customer.page


def test_a_zip_dragged_onto_a_new_dataset_becomes_pictures(
    customer: Visitor, page: Page, ink_zip: Path
) -> None:
    customer.go("/datasets")
    page.get_by_role("button", name="Make the first").click()
    page.get_by_label("Name").fill("ink")
    page.get_by_label("Trigger word").fill("inkstyle")
    page.get_by_text("Caption template").click()
    page.get_by_label("Template").fill("{caption}, {trigger}")
    page.get_by_role("button", name="Make it").click()
    page.wait_for_url("**/datasets/ds_*")
    expect(page.get_by_text("No pictures yet")).to_be_visible()
    packed = base64.b64encode(ink_zip.read_bytes()).decode()
    transfer = page.evaluate_handle(DRAG, [ink_zip.name, packed])
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("[data-summary]")).to_contain_text("accepted")
    expect(page.locator("#images .image")).to_have_count(40)
    expect(page.locator("#about")).to_contain_text("40 pictures, 5 with captions")
    expect(page.locator("#report")).to_contain_text("40 of 50–200 pictures")


def test_a_caption_is_edited_with_the_keyboard_alone(page: Page) -> None:
    captions = page.locator("#images button.caption")
    captions.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(captions.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("thrown away")
    page.keyboard.press("Escape")
    expect(captions.nth(1)).to_be_focused()
    expect(captions.nth(1)).not_to_contain_text("thrown away")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("a <b>bold</b> thing, inkstyle")
    page.keyboard.press("Enter")
    expect(captions.nth(1)).to_have_text("a <b>bold</b> thing, inkstyle")
    expect(captions.nth(1)).to_be_focused()
    page.reload()
    expect(captions.nth(1)).to_have_text("a <b>bold</b> thing, inkstyle")


def test_captions_are_changed_by_find_and_replace(page: Page) -> None:
    page.get_by_text("Find and replace in captions").click()
    page.get_by_label("Find", exact=True).fill("<b>bold</b> ")
    page.get_by_role("button", name="Try").click()
    expect(page.locator("#replace output")).to_contain_text("1 captions would change")
    page.get_by_role("button", name="Change them").click()
    expect(page.get_by_text("a thing, inkstyle")).to_be_visible()


def test_pictures_are_left_out_and_deleted_together(page: Page) -> None:
    boxes = page.locator("#images .pick input")
    for number in (2, 3):
        boxes.nth(number).check()
    page.get_by_role("button", name="Leave out").click()
    expect(page.locator("#about")).to_contain_text("2 left out")
    boxes.nth(0).check()
    page.locator('[data-many="delete"]').click()
    page.locator("#ask").get_by_role("button", name="Delete").click()
    expect(page.locator("#images .image")).to_have_count(39)


def test_captioning_shows_its_way_and_its_words(page: Page) -> None:
    page.get_by_role("button", name="Caption now").click()
    page.get_by_role("button", name="Caption", exact=True).click()
    expect(page.locator("#working")).to_contain_text("Captioning")
    expect(page.locator("#about")).to_contain_text("37 with captions", timeout=JOB_MS)
    expect(page.locator("#images .image:not(.excluded) .caption.none")).to_have_count(0)


def test_a_training_is_foretold_started_and_watched(page: Page) -> None:
    page.get_by_role("link", name="Train a LoRA").click()
    expect(page.get_by_role("radio", name="Artist style")).to_be_checked()
    page.get_by_label("Name of the LoRA").fill("ink")
    page.get_by_text("Advanced values").click()
    page.get_by_label("max_steps").fill("0")
    expect(page.locator("#forecast [data-wrong]")).to_contain_text("max_steps")
    page.get_by_label("max_steps").fill("30")
    page.get_by_label("save_every_n_epochs").fill("1")
    expect(page.locator("#forecast [data-steps]")).to_have_text("30")
    expect(page.locator("#forecast [data-wrong]")).to_be_empty()
    page.get_by_role("button", name="Start the training").click()
    page.wait_for_url("**/trainings/trn_*")
    last = page.locator("#curves [data-last]")
    expect(last).to_contain_text("loss", timeout=JOB_MS)
    seen = last.inner_text()
    expect(last).not_to_have_text(seen, timeout=JOB_MS)
    assert page.locator("#curves canvas").count() == 1
    expect(page.get_by_text("The recommended checkpoint is the LoRA")).to_be_visible(timeout=JOB_MS)
    expect(page.locator("#checkpoints").get_by_text("recommended")).to_be_visible()
    expect(page.locator("#checkpoints img").first).to_be_visible()
    assert page.locator("#checkpoints img").first.evaluate("one => one.naturalWidth") > 0


def test_another_checkpoint_is_published(page: Page) -> None:
    page.get_by_role("button", name="Publish").first.click()
    page.wait_for_url("**/loras/lora_*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("ink step")


def test_pictures_are_drawn_with_two_loras(customer: Visitor, page: Page) -> None:
    customer.go("/playground")
    page.get_by_label("Prompt").fill("red apple, inkstyle")
    for number in (1, 2):
        page.get_by_label("Add one").select_option(index=number)
    sliders = page.get_by_role("slider")
    expect(sliders).to_have_count(2)
    sliders.first.fill("0.5")
    expect(page.locator(".lora-use input[type=number]").first).to_have_value("0.5")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("keep it").check()
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#result [data-seed]")).to_have_text("seed 7", timeout=JOB_MS)
    picture = page.locator("#result img").first
    expect(picture).to_be_visible()
    expect(page.locator("#history .card")).to_have_count(1)


def test_a_request_is_copied_as_code(page: Page) -> None:
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#toasts")).to_contain_text("curl command copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert re.search(r'"prompt":"red apple, inkstyle"', copied)
    assert "lw_live_" not in copied
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#toasts")).to_contain_text("Python code copied")
    compile(page.evaluate("navigator.clipboard.readText()"), "copied", "exec")


def test_two_pictures_are_compared_side_by_side(page: Page) -> None:
    page.get_by_label("Seed", exact=True).fill("8")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#result [data-seed]")).to_have_text("seed 8", timeout=JOB_MS)
    expect(page.locator("#history .card")).to_have_count(2)
    for number in (0, 1):
        page.locator("#history").get_by_role("button", name="Compare").nth(number).click()
    pair = page.locator("#side-by-side")
    expect(pair.locator("img")).to_have_count(2)
    expect(pair).to_contain_text("seed: 7")
    expect(pair).to_contain_text("seed: 8")
    pair.get_by_role("button", name="Close").click()


def test_settings_are_used_again(page: Page) -> None:
    page.get_by_label("Prompt").fill("something else")
    page.get_by_role("button", name="Use these settings").last.click()
    expect(page.get_by_label("Prompt")).to_have_value("red apple, inkstyle")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(page.locator(".lora-use")).to_have_count(2)


def test_a_grid_compares_weights(page: Page) -> None:
    page.get_by_text("Make a grid instead").click()
    rows = page.get_by_role("group", name="Rows")
    rows.get_by_label("What differs").select_option("weight")
    rows.get_by_label("Values").fill("0\n0.8")
    page.get_by_role("button", name="Draw the grid").click()
    page.wait_for_url("**/comparisons/cmp_*")
    expect(page.get_by_alt_text("The whole sheet")).to_be_visible(timeout=JOB_MS)
    expect(page.locator(".pictures figure")).to_have_count(2)


def test_nothing_was_complained_of(customer: Visitor) -> None:
    assert customer.complaints == []
