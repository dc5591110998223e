"""The queue as a person uses it: set up the next run while one trains, look at the panel, change it, reload."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.acting import IN_A_BROWSER, click, shoot, wait_for, wait_for_count
from tests.browser.demo_run import DemoRun
from tests.browser.studio import open_tab

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
LOOKS_ELSEWHERE = """() => {
  document.hasFocus = () => false;
  window.Notification = class {
    static permission = 'granted';
    constructor(title, about) { window.told = about.body; }
  };
}"""


def test_the_next_run_waits_in_the_queue(page: Any, demo: DemoRun) -> None:
    page.context.grant_permissions(["notifications"], origin=demo.app.address)
    click(page, "#train-new")
    wait_for(page, "#train-status", "Ready to start")
    click(page, "#train-start")
    wait_for(page, "#train-new", "Set up the next run")
    click(page, "#train-new")
    wait_for(page, "#train-start", "Add to queue")
    click(page, "#train-start")
    wait_for(page, "#queue-button", "1 waiting")
    page.wait_for_function("document.title.includes(' %) ControlNet Studio')")

    click(page, "#queue-button")
    wait_for_count(page, "#queue-jobs li", 2)
    shoot(page, "queue")
    page.get_by_role("button", name="Notify me when all jobs are done").click()
    page.get_by_role("button", name="Turn notifications off").wait_for()
    page.reload()
    wait_for(page, "#queue-button", "1 waiting")
    click(page, "#queue-button")
    page.get_by_role("button", name=re.compile("^Pause: ")).click()
    wait_for(page, "#queue-button", "1 on hold")
    wait_for(page, "#queue-held", "The queue is on hold")
    page.get_by_role("button", name=re.compile("^Remove from the queue: ")).click()
    wait_for(page, "#queue-jobs", "The queue is empty")
    wait_for(page, "#queue-button", "Queue")

    page.evaluate(LOOKS_ELSEWHERE)
    open_tab(page, "Conditions")
    click(page, "#maps-make")
    page.wait_for_function("document.title.startsWith('Done: condition maps')")
    assert page.evaluate("window.told") == "Done: condition maps"
