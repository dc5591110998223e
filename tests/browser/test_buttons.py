"""Stop saves the run first. The other buttons are pressed in the demo's run."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.acting import IN_A_BROWSER, click, shoot, wait_for
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
