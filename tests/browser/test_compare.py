"""Comparing checkpoints: a grid and its cancelling, zoom, slider, blind vote, time-lapse."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.acting import IN_A_BROWSER, click, fill, shoot, wait_for, wait_for_count, wait_for_files, wait_while
from tests.browser.demo_run import STEPS, DemoRun
from tests.browser.studio import open_tab

pytestmark = IN_A_BROWSER
SEEDS = "#compare-seeds input, #compare-seeds textarea"


def open_grid(page: Any) -> None:
    """The section, with the demo's run chosen and a grid of its newest checkpoints, most of which was drawn before."""
    open_tab(page, "Try it")
    open_tab(page, "Compare checkpoints")
    page.wait_for_selector("#compare-steps input:checked")
    fill(page, SEEDS, "0")
    wait_for(page, "#compare-plan", "2 rows")
    click(page, "#compare-make")
    wait_for(page, "#compare-grid", "best according to the verdict")
    wait_for_count(page, "#compare-grid tbody tr", 2)
    for old in ("now (step", "not drawn"):  # an earlier grid, with images that are not generated yet
        wait_while(page, "#compare-grid", old)
    page.wait_for_selector("#compare-cancel", state="hidden")


def test_a_grid_can_be_cancelled(page: Any, demo: DemoRun) -> None:
    open_tab(page, "Try it")
    open_tab(page, "Compare checkpoints")
    page.wait_for_selector("#compare-steps input:checked")
    fill(page, SEEDS, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    wait_for(page, "#compare-plan", "20 rows")
    click(page, "#compare-make")
    wait_for(page, "#compare-progress", "Images of the grid")
    shoot(page, "compare-drawing")
    click(page, "#compare-cancel")
    page.wait_for_selector("#compare-cancel", state="hidden")
    wait_for(page, "#status-line", "Nothing is running")
    click(page, "#compare-make")  # generated images are kept, and the grid can be continued
    wait_for(page, "#compare-progress", "Images of the grid")
    click(page, "#compare-cancel")
    page.wait_for_selector("#compare-cancel", state="hidden")
    assert page.locator("#problem").is_hidden(), "nothing went wrong"


def test_zoom_slider_vote_and_the_grid_as_a_file(page: Any, demo: DemoRun) -> None:
    from playwright.sync_api import expect

    open_grid(page)
    shoot(page, "compare-grid")
    page.locator("#compare-grid button.cell").nth(1).click()
    wait_for(page, "#compare-grid dialog[open]", "without ControlNet")
    page.keyboard.press("ArrowRight")
    wait_for(page, "#compare-grid dialog[open]", "step")
    page.get_by_role("button", name="2 x").click()
    shoot(page, "compare-zoom")
    page.keyboard.press("Escape")

    open_tab(page, "Side by side")
    page.wait_for_selector("#two-slider img")
    shoot(page, "compare-two")
    open_tab(page, "Blind vote")
    page.wait_for_selector("#vote-left img")
    click(page, "#vote-b")
    wait_for(page, "#vote-words", "Counted")
    wait_for(page, "#vote-tally", "One vote")
    assert len(wait_for_files(page, demo.app, f"{demo.folder.name}/comparisons/votes.jsonl", 1)) == 1
    shoot(page, "compare-vote")
    open_tab(page, "Grid")
    click(page, "#compare-save")
    page.wait_for_selector("#compare-saved a")
    wait_for_files(page, demo.app, f"{demo.folder.name}/comparisons/grid-*.png", 1)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_time_lapse_of_the_whole_run(page: Any) -> None:
    open_tab(page, "Try it")
    open_tab(page, "Compare checkpoints")
    open_tab(page, "Time-lapse")
    click(page, "#lapse-make")
    page.wait_for_selector("#lapse-shown img")
    wait_for(page, "#lapse-words", re.compile(rf"[3-6] steps, from 0 to {STEPS}"))
    shoot(page, "compare-lapse")
