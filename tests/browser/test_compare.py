"""Checkpoints are compared while a run trains: grid with the live weights, slider, blind vote, time-lapse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.demo.sets import make_demo_set
from engine.workspace import DEMO_BASE, Workspace
from tests.browser.studio import ROOT, Studio, browser_page, find_chromium, open_tab, studio
from tests.browser.test_journey import BUSY, click, fill, open_page, shoot, wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium, Chrome or Edge on this machine"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    base = DEMO_BASE if (DEMO_BASE / "model_index.json").exists() else request.getfixturevalue("tiny_base")
    root = tmp_path_factory.mktemp("compare") / "workspace"
    make_demo_set(Workspace(root), "circles", 24)
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    with studio(root, program=program, STUDIO_DEMO_BASE=str(base)) as opened:
        yield opened


def wait_for_files(page: Any, app: Studio, pattern: str, count: int) -> list[Path]:
    for _ in range(900):
        found = list((app.workspace / "runs").glob(pattern))
        if len(found) >= count:
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"{pattern}: {count} were awaited")


def test_a_grid_is_made_while_a_run_trains(app: Studio) -> None:
    from playwright.sync_api import expect

    with browser_page() as page:
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        open_page(page, app)
        open_tab(page, "Train")
        wait_for(page, "#train-status", "Ready to start")
        page.click("#more-settings > button")
        settings = {"train-steps": 20_000, "validation-every": 20_000, "validation-sampling_steps": 4}
        for setting, value in (settings | {"validation-pictures": 2}).items():
            fill(page, f"#set-{setting} input", str(value))
        wait_for(page, "#train-status", "20,000 steps")
        click(page, "#train-start")
        wait_for(page, "#status-line", BUSY, 120)
        click(page, "#train-save-now")
        wait_for_files(page, app, "*/checkpoints/step-*/checkpoint.json", 1)
        click(page, "#train-sample-now")
        wait_for_files(page, app, "*/previews/step-*/scores.json", 2)

        open_tab(page, "Try it")
        open_tab(page, "Compare checkpoints")
        page.wait_for_selector("#compare-steps input:checked", timeout=30_000)
        page.get_by_label("The live weights, while it trains").check()
        wait_for(page, "#compare-plan", "3 columns by 2 rows")
        click(page, "#compare-make")
        wait_for(page, "#compare-grid", re.compile(r"now \(step [\d,]+\)"), 120)
        page.wait_for_selector("#compare-cancel", state="hidden")
        wait_for(page, "#status-line", BUSY)
        expect(page.locator("#compare-grid td button.cell")).to_have_count(2 * (1 + 3), timeout=60_000)
        shoot(page, "compare-grid")

        page.locator("#compare-grid button.cell").nth(1).click()
        wait_for(page, "#compare-grid dialog[open]", "without ControlNet")
        page.keyboard.press("ArrowRight")
        wait_for(page, "#compare-grid dialog[open]", "step")
        page.get_by_role("button", name="2 x").click()
        shoot(page, "compare-zoom")
        page.keyboard.press("Escape")

        open_tab(page, "Two of them")
        page.wait_for_selector("#two-slider img")
        shoot(page, "compare-two")
        open_tab(page, "Blind vote")
        page.wait_for_selector("#vote-left img")
        click(page, "#vote-b")
        wait_for(page, "#vote-words", "Counted")
        wait_for(page, "#vote-tally", "One vote")
        assert len(wait_for_files(page, app, "*/comparisons/votes.jsonl", 1)) == 1
        shoot(page, "compare-vote")
        open_tab(page, "Time-lapse")
        click(page, "#lapse-make")
        page.wait_for_selector("#lapse-shown img")
        wait_for(page, "#lapse-words", "2 steps, from 0")
        shoot(page, "compare-lapse")
        open_tab(page, "Grid")
        click(page, "#compare-save")
        page.wait_for_selector("#compare-saved a")
        wait_for_files(page, app, "*/comparisons/grid-*.png", 1)

        wait_for(page, "#status-line", BUSY)
        open_tab(page, "Train")
        click(page, "#train-stop")
        wait_for(page, "#train-status", "Stopped", 90)
        assert faults == []
