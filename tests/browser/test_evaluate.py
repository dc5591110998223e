"""Evaluating a checkpoint by clicks: progress, cancel, report, control-effect meter; and the buttons of the verdict."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from tests.browser.acting import IN_A_BROWSER, click, fill, pick, shoot, unfold, wait_for
from tests.browser.demo_run import DemoRun
from tests.browser.studio import open_tab

pytestmark = IN_A_BROWSER


def test_an_evaluation_shows_progress_and_can_be_cancelled(page: Any, demo: DemoRun) -> None:
    unfold(page, "evaluate-box")
    fill(page, "#evaluate-pairs input", "64")
    click(page, "#evaluate-start")
    wait_for(page, "#status-line", re.compile(r"Evaluating step \d+"))
    page.wait_for_selector("#evaluate-progress .bar")
    shoot(page, "evaluating")
    click(page, "#evaluate-cancel")
    page.wait_for_selector("#evaluate-cancel", state="hidden")
    wait_for(page, "#status-line", "Nothing is running")
    assert not list(demo.folder.glob("evaluation/full-*"))


def test_the_meter_shows_the_control_effect(page: Any) -> None:
    unfold(page, "evaluate-box")
    click(page, "#evaluate-effect-only")
    page.wait_for_selector("#evaluate-effect img")
    wait_for(page, "#evaluate-effect-words", re.compile(r"4 pairs: 0\.\d\d: right map 0\.\d\d, blank map"))
    shoot(page, "meter")


def test_the_buttons_of_the_verdict_open_the_dataset_check_and_the_settings(page: Any, demo: DemoRun) -> None:
    ignoring = demo.folder.with_name("a run that ignores its control images")
    shutil.copytree(demo.folder, ignoring)
    metrics = ignoring / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    checks = [line for line in lines if "gain_share" in line]
    for check in checks:
        check |= {"gain_share": 0.0, "control_gain": 0.0, "images_seen": 30 * check["step"], "map_difference": 0.004}
    metrics.write_text("".join(json.dumps(line) + "\n" for line in checks), encoding="utf-8")
    try:
        page.reload()
        open_tab(page, "Train")
        pick(page, "#train-run", ignoring.name)
        wait_for(page, "#verdict", "The control images are ignored")
        wait_for(page, "#verdict", "0 to 1 instead of 0 to 255")
        shoot(page, "verdict-ignored")
        page.locator("#verdict button.look").get_by_text("Check the dataset").first.click()
        page.wait_for_selector("#doctor-check", state="visible")
        open_tab(page, "Train")
        page.locator("#verdict button.look").get_by_text("Open the settings").click()
        page.wait_for_selector("#train-status", state="visible")
    finally:
        shutil.rmtree(ignoring)
