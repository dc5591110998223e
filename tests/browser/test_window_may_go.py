"""A run survives a killed browser, and a killed app is noticed by the page and offers to resume it.

Reloading and a second page are part of the demo's run.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.demo.sets import make_demo_set
from engine.runs.run import Run
from engine.workspace.paths import DEMO_BASE, Workspace
from tests.browser.acting import BUSY, IN_A_BROWSER, click, open_page, shoot, wait_for
from tests.browser.studio import ROOT, Studio, launched, page_of

pytestmark = IN_A_BROWSER
COLD = (str(ROOT / "tests" / "ui" / "server" / "cold.py"),)
PROGRAM = (str(ROOT / "tests" / "ui" / "train" / "training_window.py"),)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A workspace with a small dataset, and the environment in which the app trains on it by itself."""
    base = DEMO_BASE if (DEMO_BASE / "model_index.json").exists() else request.getfixturevalue("tiny_base")
    root = tmp_path / "workspace"
    make_demo_set(Workspace(root), "circles", 8)
    return root, {"STUDIO_DATASET": "demo-circles-8", "STUDIO_BASE": str(base)}


def browser_processes() -> set[psutil.Process]:
    """The processes of all browsers that the tests have started."""
    return {
        child
        for child in psutil.Process().children(recursive=True)
        if any(word.startswith(("--headless", "--remote-debugging")) for word in _command(child))
    }


def kill_browser(others: set[psutil.Process]) -> int:
    """Kill the browser that this test has launched, as a crash would; not those that run for other tests."""
    mine = browser_processes() - others
    for child in mine:
        with suppress(psutil.NoSuchProcess):  # it ended together with the one before it
            child.kill()
    return len(mine)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.mark.answers(
    "The process looks frozen",
    "I closed the tab, reloaded, or the browser crashed",
    "The page says that the app does not answer",
)
@pytest.mark.long
def test_the_run_continues_and_every_page_shows_its_state(browser: Any, place: Any) -> None:
    root, environment = place
    app = Studio(root, program=PROGRAM, **environment)
    later = None
    try:
        app.wait_until_open()
        from playwright.sync_api import Error

        processes = before = 0
        others = browser_processes()
        with pytest.raises(Error), launched(browser.browser_type) as killed, page_of(killed) as page:
            open_page(page, app)
            wait_for(page, "#status-line", BUSY)
            click(page, "#close-app")
            wait_for(page, "#close-words", "It will be saved")
            shoot(page, "close-question")
            click(page, "#close-no")
            page.wait_for_selector("#close-box", state="hidden")
            seen = Run(Workspace(root).run_folders()[0])
            before = seen.metrics()[-1]["step"]
            processes = kill_browser(others)
            page.reload()
        assert processes, "the browser was killed"

        with page_of(browser, 900, 900) as page:
            open_page(page, app)
            wait_for(page, "#status-line", BUSY)
            assert seen.metrics()[-1]["step"] > before, "it went on while nobody looked"
            app.kill()  # now the app itself, without a warning
            page.wait_for_selector("#app-gone:not([hidden])")
            wait_for(page, "#app-gone", "does not answer")
            shoot(page, "app-gone")
            assert seen.ending == "interrupted"

            later = Studio(root, port=app.port, program=COLD)
            later.wait_until_open()
            wait_for(page, "#unfinished", "1 unfinished run was found")
            page.wait_for_selector("#app-gone", state="hidden")
            wait_for(page, "#unfinished-words-1", "was interrupted")
            shoot(page, "unfinished")
            click(page, "#look-1")
            wait_for(page, "#train-status", "unfinished run was found")
            click(page, "#discard-1")
            page.wait_for_selector("#unfinished", state="hidden")
            assert list((root / "discarded").iterdir()) and not Workspace(root).run_folders()

            click(page, "#close-app")
            wait_for(page, "#close-words", "Nothing is running")
            click(page, "#close-yes")
            wait_for(page, "#app-gone", "is closed")
        assert later.process.wait(60) == 0
    finally:
        app.kill()
        if later is not None:
            later.kill()
