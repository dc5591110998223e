"""One run of the demo that all browser tests share, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.acting import open_page, pick, wait_for
from tests.browser.demo_run import DemoRun, train_the_demo
from tests.browser.studio import ROOT, browser_page, open_tab, studio


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRun]:
    """The app with the demo's finished run, open until the end of all tests. It must not use the internet."""
    folder = tmp_path_factory.mktemp("demo")
    calls, slow = folder / "calls.txt", folder / "slow"
    slow.touch()
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    with studio(folder / "workspace", program=program, STUDIO_CALLS=str(calls), STUDIO_SLOW=str(slow)) as app:
        with browser_page() as page:
            seen = train_the_demo(page, app, slow)
        yield seen
    assert not calls.exists(), "no request leaves the computer: " + calls.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def window(demo: DemoRun) -> Iterator[Any]:
    """A page that the tests of a file share, because opening one takes several seconds on a busy machine."""
    with browser_page() as opened:
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        open_page(opened, demo.app)
        yield opened
        assert faults == []


@pytest.fixture
def page(window: Any, demo: DemoRun) -> Any:
    """The page with the demo's run on the Train tab, whatever an earlier test has left open."""
    show_run(window, demo)
    return window


def show_run(page: Any, demo: DemoRun) -> None:
    """Show the demo's run on the Train tab."""
    if not page.url.startswith(demo.app.address):
        open_page(page, demo.app)
    page.keyboard.press("Escape")
    open_tab(page, "Train")
    page.wait_for_selector("#train-run input")
    if page.locator("#train-run input").input_value() != demo.folder.name:
        pick(page, "#train-run", demo.folder.name)
    wait_for(page, "#train-status", "Finished")
