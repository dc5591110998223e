"""The whole way through the window, as a newcomer goes it: demo set, training, pause, resume, try it, export."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from engine.workspace import DEMO_BASE
from tests.browser.studio import ROOT, Studio, browser_page, find_chromium, open_tab, studio, watch_foreign_requests

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium, Chrome or Edge on this machine"),
]
PICTURES, STEPS = 24, 80
BUSY = re.compile(r"step [\d,]+ of")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    base = DEMO_BASE if (DEMO_BASE / "model_index.json").exists() else request.getfixturevalue("tiny_base")
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    folder = tmp_path_factory.mktemp("journey")
    calls = folder / "calls.txt"
    watched = {"STUDIO_DEMO_BASE": str(base), "STUDIO_CALLS": str(calls)}
    with studio(folder / "workspace", program=program, **watched) as opened:
        yield opened
    assert not calls.exists(), "no request leaves the computer: " + calls.read_text(encoding="utf-8")


def shoot(page: Any, name: str) -> None:
    """A screenshot into the folder that STUDIO_SCREENSHOTS names, if it does."""
    folder = os.environ.get("STUDIO_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(700)  # charts are drawn a moment after their data came
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def open_page(page: Any, app: Studio) -> None:
    page.goto(app.address)
    page.wait_for_selector("#status-line .status")


def wait_for(page: Any, selector: str, text: str | re.Pattern[str], seconds: float = 60) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=seconds * 1000)


def click(page: Any, selector: str, seconds: float = 30) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_be_enabled(timeout=seconds * 1000)
    page.click(selector)


def fill(page: Any, selector: str, value: str) -> None:
    """As a person types: the field is left, and what stands in it stays. A page that still loads may put it back."""
    from playwright.sync_api import expect

    field = page.locator(selector)
    for _ in range(10):
        field.fill(value)
        field.press("Tab")
        page.wait_for_timeout(500)
        if field.input_value() == value:
            return
    expect(field).to_have_value(value)


def test_first_start_to_export(app: Studio) -> None:
    with browser_page() as page:
        foreign = watch_foreign_requests(page, app.address)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        open_page(page, app)
        wait_for(page, "#first-start", "Three clicks")
        shoot(page, "first-start")

        page.get_by_text("Small print").click()
        fill(page, "#first-count input", str(PICTURES))
        fill(page, "#first-steps input", str(STEPS))
        click(page, "#first-1")
        wait_for(page, "#dataset-summary", f"{PICTURES} pictures")
        shoot(page, "dataset")

        open_tab(page, "Conditions")
        page.wait_for_selector("#condition-preview img")
        shoot(page, "conditions")

        open_tab(page, "Train")
        wait_for(page, "#train-status", "Ready to start")
        page.click("#more-settings > button")
        for setting, value in (("validation-pictures", 2), ("validation-sampling_steps", 4), ("validation-every", 60)):
            page.fill(f"#set-{setting} input", str(value))
        page.click("#more-settings > button")

        click(page, "#first-2")
        wait_for(page, "#status-line", BUSY, 90)
        page.wait_for_selector("#train-pictures img", timeout=60_000)

        page.reload()
        wait_for(page, "#status-line", BUSY, 30)
        open_tab(page, "Train")
        page.wait_for_selector("#train-pause:not([disabled])")

        second = page.context.new_page()
        open_page(second, app)
        wait_for(second, "#status-line", BUSY, 30)
        open_tab(second, "Train")
        shoot(second, "train-running")

        second.click("#train-pause")
        wait_for(page, "#train-status", "Paused")
        wait_for(page, "#train-status", "safe to close")
        second.close()
        saved = list((app.workspace / "runs").glob("*/checkpoints/step-*"))
        assert saved

        page.click("#train-resume")
        wait_for(page, "#status-line", BUSY, 60)
        wait_for(page, "#train-status", "Finished", 120)
        page.wait_for_selector("#chart-loss canvas, #chart-loss svg")
        wait_for(page, "#train-status", f"{STEPS} of {STEPS}")
        shoot(page, "train-finished")

        click(page, "#first-3")
        page.wait_for_selector("#try-control img")
        click(page, "#try-make")
        page.wait_for_selector("#try-results img", timeout=90_000)
        assert page.locator("#try-results .grid-wrap img").count() == 3
        shoot(page, "try-it")

        open_tab(page, "Export")
        click(page, "#export-make")
        wait_for(page, "#export-result", "The export is ready", 60)
        wait_for(page, "#export-result", "Checked")
        shoot(page, "export")
        exported = list((app.workspace / "runs").glob("*/exports/*.safetensors"))
        assert len(exported) == 1

        open_tab(page, "Settings & help")
        wait_for(page, "#tab-settings", "Versions")
        shoot(page, "settings")

        assert foreign == []
        assert faults == []


def test_a_folder_that_is_not_there_is_told_on_a_panel_that_stays(app: Studio) -> None:
    with browser_page(900, 800) as page:
        open_page(page, app)
        if any((app.workspace / "datasets").glob("*/dataset.json")):  # then it folds by itself, a moment after opening
            page.wait_for_selector("#dataset-read", state="hidden")
            page.click("#dataset-sources > button")
            page.wait_for_selector("#dataset-read", state="visible")
        page.fill("#dataset-folder textarea, #dataset-folder input", "/nowhere/<b>pictures</b>")
        page.click("#dataset-read")
        wait_for(page, "#problem", "does not exist")
        wait_for(page, "#problem", "<b>pictures</b>")  # as text, not as HTML
        page.reload()
        wait_for(page, "#problem", "What to try")
        page.click("#problem-dismiss")
        page.wait_for_selector("#problem", state="hidden")
