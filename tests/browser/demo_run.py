"""The demo's run as a newcomer makes it, by clicks. It is the one training that the browser tests share.

It begins at the bundled base's own weights and uses the demo's own settings, with fewer pairs and steps: just so many
that the net learns to obey. While it trains, everything is done that can be done with a run in progress.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.browser.acting import (
    BUSY,
    click,
    fill,
    open_page,
    pick,
    shoot,
    unfold,
    wait_for,
    wait_for_count,
    wait_for_files,
    wait_while,
)
from tests.browser.studio import Studio, open_tab, watch_foreign_requests

PAIRS, STEPS = 160, 100
SETTINGS = {
    "data-held_out": 16,
    "validation-every": 50,
    "validation-pictures": 4,
    "validation-sampling_steps": 8,
    "validation-probes": 0,
    "validation-check_every": 10,
    "validation-time_share": 40,
}
GROUPS = ("group-data", "group-validation", "own-tests")


@dataclass
class DemoRun:
    """The app with its finished run, and what the page showed on the way."""

    app: Studio
    folder: Path = Path()
    before: list[Path] = field(default_factory=list)
    """Checkpoints of the run that was cancelled while it was prepared: none, or one where training had begun."""
    live_words: str = ""
    """Under the image of the live weights."""
    grid_columns: list[str] = field(default_factory=list)
    grid_cells: int = 0
    busy: list[str] = field(default_factory=list)
    """The status line after the grid, and after the image."""
    paused: str = ""
    foreign: list[str] = field(default_factory=list)
    """Addresses outside the app that the page asked for."""
    faults: list[str] = field(default_factory=list)
    """Errors of scripts on the page."""


def train_the_demo(page: Any, app: Studio, slow: Path) -> DemoRun:
    """Go from the first start to "Finished".

    Args:
        slow: file that slows the training down; removed once nothing more is done with the run in progress.
    """
    seen = DemoRun(app, foreign=watch_foreign_requests(page, app.address))
    page.on("pageerror", lambda error: seen.faults.append(f"{error} {error.stack}"))
    set_up(page, app)
    _cancel_while_it_prepares(page, seen)
    known = set((app.workspace / "runs").iterdir())
    click(page, "#first-2")
    wait_for(page, "#status-line", BUSY)
    (seen.folder,) = set((app.workspace / "runs").iterdir()) - known
    click(page, "#train-save-now")
    wait_for_files(page, app, f"{seen.folder.name}/checkpoints/step-*/checkpoint.json", 1)
    click(page, "#train-sample-now")
    second = _pause_and_look_from_two_pages(page, seen)
    click(page, "#train-resume")
    wait_for(second, "#status-line", BUSY)
    _grid_while_it_trains(second, seen)
    _image_of_the_live_weights(page, seen)
    second.close()
    slow.unlink()
    wait_for(page, "#train-status", "Finished", 1200)
    return seen


def set_up(page: Any, app: Studio) -> None:
    """Make the demo set and set up the run, with fewer images and steps than the card suggests."""
    open_page(page, app)
    wait_for(page, "#first-start", "Two ways to start")
    shoot(page, "first-start")
    click(page, "#guide-demo")
    wait_for(page, "#first-start", "three clicks")
    unfold(page, "first-options")
    fill(page, "#first-count input", str(PAIRS))
    fill(page, "#first-steps input", str(STEPS))
    click(page, "#first-1")
    wait_for(page, "#dataset-summary", f"{PAIRS} images")
    shoot(page, "dataset")
    open_tab(page, "Conditions")
    page.wait_for_selector("#condition-preview img")
    shoot(page, "conditions")
    open_tab(page, "Train")
    wait_for(page, "#train-status", "Ready to start")
    for folded in GROUPS:
        page.click(f"#{folded} > button")
    for setting, value in SETTINGS.items():
        fill(page, f"#set-{setting} input", str(value))
    for folded in GROUPS:
        page.click(f"#{folded} > button")


def _cancel_while_it_prepares(page: Any, seen: DemoRun) -> None:
    click(page, "#train-start")
    # If preparing is over already, the button is Stop, which saves the weights.
    page.locator("#train-cancel:visible, #train-stop:visible").first.click()
    wait_for(page, "#train-status", re.compile("Stopped"))
    shoot(page, "train-cancelled")
    seen.before = list((seen.app.workspace / "runs").glob("*/checkpoints/step-*"))
    click(page, "#train-new")
    wait_for(page, "#train-status", "Ready to start")


def _image_of_the_live_weights(page: Any, seen: DemoRun) -> None:
    open_tab(page, "Try it")
    page.wait_for_selector("#try-control img")
    wait_for(page, "#try-progress", "pauses between two steps")
    pick(page, "#try-checkpoint", re.compile("^live"))
    click(page, "#try-make")
    page.wait_for_selector("#try-results img")
    wait_for(page, "#try-words", "Live weights")
    seen.live_words = page.locator("#try-words").inner_text()
    wait_for_count(page, "#try-results .grid-wrap img", 3)  # the map, with and without the net
    seen.busy.append(page.locator("#status-line").inner_text())
    shoot(page, "try-live")


def _pause_and_look_from_two_pages(page: Any, seen: DemoRun) -> Any:
    """Pause first: a run in progress would not wait for the reload and the second page."""
    click(page, "#train-pause")
    wait_for(page, "#train-status", "Paused")
    page.reload()
    open_tab(page, "Train")
    wait_for(page, "#train-status", "safe to close")
    seen.paused = page.locator("#train-status").inner_text()
    second = page.context.new_page()
    second.on("pageerror", lambda error: seen.faults.append(f"{error} {error.stack}"))
    open_page(second, seen.app)
    open_tab(second, "Train")
    wait_for(second, "#train-status", "Paused")
    open_tab(second, "Try it")
    open_tab(second, "Compare checkpoints")
    second.wait_for_selector("#compare-steps input:checked")
    second.get_by_label("The live weights, while it trains").check()
    wait_for(second, "#compare-plan", "2 rows")
    return second


def _grid_while_it_trains(second: Any, seen: DemoRun) -> None:
    click(second, "#compare-make")
    wait_for(second, "#compare-grid", re.compile(r"now \(step [\d,]+\)"))
    second.wait_for_selector("#compare-cancel", state="hidden")
    # The button disappears when the job ends; the last column arrives a moment later.
    wait_while(second, "#compare-grid", "not drawn")
    seen.busy.append(second.locator("#status-line").inner_text())
    seen.grid_columns = second.locator("#compare-grid thead th").all_inner_texts()
    seen.grid_cells = second.locator("#compare-grid tbody td button.cell").count()
    shoot(second, "compare-live")
