"""Stop saves the run first. The other buttons are pressed in the demo's run."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.acting import IN_A_BROWSER, click, fill, shoot, wait_for
from tests.browser.demo_run import DemoRun

pytestmark = IN_A_BROWSER


def test_stop_saves(page: Any, demo: DemoRun) -> None:
    before = set(demo.app.workspace.glob("runs/*/checkpoints/step-*"))
    click(page, "#train-new")
    wait_for(page, "#train-status", "Ready to start")
    click(page, "#train-start")
    wait_for(page, "#status-line", re.compile(r"step [1-9][\d,]* of"))  # before it, nothing is saved
    click(page, "#train-stop")
    wait_for(page, "#train-status", "Stopped")
    wait_for(page, "#train-status", re.compile(r"Saved at step [\d,]+ of "))
    assert set(demo.app.workspace.glob("runs/*/checkpoints/step-*")) - before
    shoot(page, "train-stopped")


LOADING_STATUS = """async () => {
  for (const {name} of performance.getEntriesByType('resource')) {
    if (!name.includes('/statustracker-') || !name.endsWith('.js')) continue;
    const found = Object.values(await import(name)).find((one) => one?.prototype?.resolve_args);
    const update = found.prototype.update;
    found.prototype.update = function (status) {
      window.loadingStatus = this.current;
      return update.call(this, status);
    };
  }
}"""


def test_the_browser_keeps_no_loading_status_of_inputs(page: Any) -> None:
    """Each event would walk over the page for every input of every event before it (ui/page/loading_status.js)."""
    page.evaluate(LOADING_STATUS)
    click(page, "#train-new")  # has the form's settings as inputs
    wait_for(page, "#train-status", "Ready to start")
    page.click("#group-validation > button")
    fill(page, "#set-validation-every input", "20")
    page.wait_for_function("window.loadingStatus")
    assert page.evaluate("Object.keys(window.loadingStatus).length") < 30
