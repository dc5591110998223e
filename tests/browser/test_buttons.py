"""The buttons that the long way does not press: cancel while preparing, save, sample, try live, stop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.demo.sets import make_demo_set
from engine.workspace import DEMO_BASE, Workspace
from tests.browser.studio import ROOT, Studio, browser_page, find_chromium, open_tab, studio
from tests.browser.test_journey import click, open_page, shoot, wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium, Chrome or Edge on this machine"),
]
MANY = 400  # pictures: encoding them takes long enough to be cancelled


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    base = DEMO_BASE if (DEMO_BASE / "model_index.json").exists() else request.getfixturevalue("tiny_base")
    root = tmp_path_factory.mktemp("buttons") / "workspace"
    make_demo_set(Workspace(root), "circles", MANY)
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    with studio(root, program=program, STUDIO_DEMO_BASE=str(base)) as opened:
        yield opened


def checkpoints(app: Studio) -> list[Path]:
    return sorted((app.workspace / "runs").glob("*/checkpoints/step-*"))


def test_cancel_then_save_sample_and_stop(app: Studio) -> None:
    with browser_page() as page:
        open_page(page, app)
        open_tab(page, "Train")
        wait_for(page, "#train-status", "Ready to start")
        page.click("#more-settings > button")
        for setting, value in (("train-steps", 5000), ("validation-every", 0), ("validation-sampling_steps", 4)):
            page.fill(f"#set-{setting} input", str(value))
            page.press(f"#set-{setting} input", "Tab")
        wait_for(page, "#train-status", "5,000 steps")

        click(page, "#train-start")
        wait_for(page, "#train-status", "Preparing")
        click(page, "#train-cancel")
        wait_for(page, "#train-status", re.compile("Stopped"), 90)
        shoot(page, "train-cancelled")
        left = len(checkpoints(app))  # none; one where the page was so slow that training had begun, as stopping saves
        assert left <= 1

        click(page, "#train-new")
        wait_for(page, "#train-status", "Ready to start")
        click(page, "#train-start")
        wait_for(page, "#status-line", re.compile(r"step [\d,]+ of"), 120)
        click(page, "#train-save-now")
        for _ in range(600):
            if len(checkpoints(app)) > left:
                break
            page.wait_for_timeout(100)
        assert len(checkpoints(app)) == left + 1

        click(page, "#train-sample-now")
        page.wait_for_selector("#train-pictures img")
        shoot(page, "train-sampled")

        # A picture of the live weights, while it goes on training.
        open_tab(page, "Try it")
        page.wait_for_selector("#try-control img")
        wait_for(page, "#try-progress", "lends its models")
        page.click("#try-checkpoint input")
        page.get_by_role("option", name=re.compile("^live")).click()
        page.click("#try-more > button")
        page.fill("#try-steps input[type=number]", "4")
        page.press("#try-steps input[type=number]", "Tab")
        click(page, "#try-make")
        page.wait_for_selector("#try-results img", timeout=120_000)
        wait_for(page, "#try-words", "Live weights")
        wait_for(page, "#status-line", re.compile(r"step [\d,]+ of"))
        assert page.locator("#try-results .grid-wrap img").count() == 3
        shoot(page, "try-live")

        open_tab(page, "Train")
        click(page, "#train-stop")
        wait_for(page, "#train-status", "Stopped", 90)
        wait_for(page, "#train-status", re.compile(r"Saved at step [\d,]+ of 5,000"))
        assert len(checkpoints(app)) >= left + 2, "stopping saves, too"
        shoot(page, "train-stopped")
