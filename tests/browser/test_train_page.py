"""The Train tab as people look at it: the form of a new run, the bases panel, cautions, a finished run, Try it."""

from __future__ import annotations

from typing import Any

from PIL import Image

from engine.data import scan
from engine.data.dataset import Dataset
from engine.workspace.paths import Workspace
from tests.browser.acting import IN_A_BROWSER, click, fill, pick, shoot, unfold, wait_for, wait_for_count, wait_while
from tests.browser.demo_run import STEPS, DemoRun
from tests.browser.studio import open_tab

pytestmark = IN_A_BROWSER
SCREEN = 900
GROUPS = ("model", "data", "objective", "optim", "train", "validation")
HEAD = 100
"""Pixels of the page's head above the tabs; a card between them comes and goes."""
HEIGHT = "document.documentElement.scrollHeight - document.querySelector('#tabs').getBoundingClientRect().top - scrollY"


def top(page: Any) -> float:
    """Where the tabs begin, in pixels of the window."""
    return float(page.locator("#tabs").bounding_box()["y"])


def new_run(page: Any) -> None:
    """Show the form with nothing changed but the dataset."""
    open_tab(page, "Train")
    pick(page, "#train-run", "A new run")
    page.wait_for_selector("#all-settings", state="visible")
    if page.locator("[data-setting=all]").count():
        page.click("[data-setting=all]")
        wait_for_count(page, "#settings-changed [data-setting]", 0)


def test_all_settings_fit_on_three_screens_are_found_and_are_set_back(page: Any) -> None:
    from playwright.sync_api import expect

    new_run(page)
    wait_for_count(page, "#first-pairs .cell", 3)
    wait_for(page, "#forecast", "What this run will take")
    assert HEAD + page.evaluate(HEIGHT) <= 1.5 * SCREEN
    shoot(page, "train-new")

    search = page.locator("#settings-search input")
    search.fill("learning rate warm-up")
    page.wait_for_selector("#set-optim-warmup_steps", state="visible")
    assert page.locator("#group-validation").is_hidden() and page.locator("#set-optim-beta1").is_hidden()
    search.fill("no such word")
    wait_for(page, "#settings-search", "No setting has all these words")
    search.fill("")
    page.wait_for_selector("#group-validation", state="visible")
    wait_for_count(page, ".settings-group > button.open", 0)

    for group in (*(f"group-{name}" for name in GROUPS), "own-tests"):
        unfold(page, group)
    page.wait_for_selector("#set-validation-prompts", state="visible")
    assert HEAD + page.evaluate(HEIGHT) <= 3 * SCREEN, "all unfolded"
    shoot(page, "train-all-settings")

    fill(page, "#set-train-seed input", "7")
    mark = page.locator("#set-train-seed > button.reset")
    expect(mark).to_contain_text("↺")
    expect(page.locator("#settings-changed")).to_contain_text("Seed: 7")
    mark.click()
    expect(mark).to_have_count(0)
    expect(page.locator("#set-train-seed input")).not_to_have_value("7")

    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert page.locator("#train-start").bounding_box()["y"] < 100, "the bar stays in view"
    for group in (*(f"group-{name}" for name in GROUPS), "own-tests"):
        page.click(f"#{group} > button")


def test_a_base_is_downloaded_and_chosen_and_a_caution_asks_once_more(page: Any, demo: DemoRun, hub: Any) -> None:
    workspace = Workspace(demo.app.workspace)
    folder = demo.app.workspace.parent / "noise"
    for part in ("images", "conditions"):
        (folder / part).mkdir(parents=True)
        for number in range(6):
            Image.effect_noise((128, 128), 80).convert("RGB").save(folder / part / f"{number}.png")
    Dataset.create(workspace, "noise", scan.scan_folder(folder), folder)

    new_run(page)
    usual = page.locator("#set-data-dataset input").input_value()
    pick(page, "#set-data-dataset", "noise")
    wait_for(page, "#cautions", "The demo base knows only its own coloured shapes.")
    click(page, "#train-start")
    wait_for(page, "#train-cautions", "Training has not started")
    page.wait_for_selector("#train-anyway", state="visible")
    shoot(page, "train-red-caution")
    assert "Nothing is running" in page.locator("#status-line").inner_text()

    unfold(page, "bases")
    wait_for(page, "#bases-list", "Stable Diffusion 1.5: not downloaded")
    click(page, "#bases-download")
    wait_for(page, "#bases-message", "is downloaded and selected for the next run")
    wait_for(page, "#bases-list", "Stable Diffusion 1.5: downloaded")
    page.wait_for_function(f"document.querySelector('#set-model-base input').value === '{hub.base}'")
    wait_while(page, "#cautions", "coloured shapes")
    page.wait_for_selector("#train-anyway", state="hidden")
    shoot(page, "train-bases")
    page.click("#bases > button")
    page.click("#set-model-base > button.reset")
    page.wait_for_function("document.querySelector('#set-model-base input').value === 'demo'")
    pick(page, "#set-data-dataset", usual)


def test_a_finished_run_begins_with_its_newest_images_and_shows_earlier_ones(page: Any) -> None:
    wait_for(page, "#train-pictures-head", f"Preview images at step {STEPS}")
    first = page.locator("#train-pictures .cell").first
    box = first.bounding_box()
    assert box["y"] - top(page) + HEAD < SCREEN / 2 and box["width"] > 500, "on the first screen, and large"
    assert page.locator("#verdict").bounding_box()["y"] < page.locator("#chart-gain").bounding_box()["y"]
    first.click()
    page.wait_for_selector("#train-pictures dialog[open] img")
    shoot(page, "train-enlarged")
    page.keyboard.press("Escape")
    page.locator("#train-pictures-time input[type=range]").focus()
    page.keyboard.press("Home")
    wait_for(page, "#train-pictures-head", "Preview images at step 0")
    wait_for_count(page, "#train-pictures dialog", 1)


def test_try_it_has_its_controls_in_one_view(page: Any) -> None:
    open_tab(page, "Try it")
    page.wait_for_selector("#try-control img")
    box = page.locator("#try-make").bounding_box()
    assert HEAD + box["y"] + box["height"] - top(page) <= SCREEN


def test_a_page_that_loads_says_so_and_shows_no_controls(page: Any, demo: DemoRun) -> None:
    second = page.context.new_page()
    second.route("**/studio/poll", lambda route: route.abort())  # so that its values never arrive
    second.goto(demo.app.address)
    second.wait_for_selector("#page-loading", state="visible")
    assert second.locator("#tabs").is_hidden()
    second.unroute("**/studio/poll")
    second.wait_for_selector("#tabs", state="visible")
    assert second.locator("#page-loading").is_hidden()
    second.close()
