"""One browser and one run of the demo that all browser tests share, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.bases.catalog import catalog_bases
from tests.bases.hub import LocalHub, serving
from tests.browser.acting import open_page, pick, wait_for
from tests.browser.demo_run import DemoRun, train_the_demo
from tests.browser.studio import ROOT, chromium, explained, open_tab, page_of, studio


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """A browser. Playwright keeps an event loop running, so it has to end before the tests of other folders."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def window(browser: Any) -> Iterator[Any]:
    """The page on which the demo is trained, and which all tests share: opening one takes several seconds."""
    with page_of(browser) as page:
        yield page


@pytest.fixture(scope="package")
def hub(tiny_base: Path) -> Iterator[LocalHub]:
    """A hub on this machine with a tiny base under the id of the first base on offer."""
    files = {path.relative_to(tiny_base).as_posix(): path.read_bytes() for path in tiny_base.rglob("*.*")}
    with serving(catalog_bases()[0].id, files) as running:
        yield running


@pytest.fixture(scope="package")
def demo(window: Any, hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRun]:
    """The app with the demo's finished run, open until the end of all tests. It must not use the internet."""
    folder = tmp_path_factory.mktemp("demo")
    calls, slow = folder / "calls.txt", folder / "slow"
    slow.touch()
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    said = {"STUDIO_CALLS": str(calls), "STUDIO_SLOW": str(slow), "HF_ENDPOINT": hub.address}
    said["HF_HOME"] = str(folder / "hub")
    with studio(folder / "workspace", program=program, **said) as app:
        with explained(window):
            seen = train_the_demo(window, app, slow)
        yield seen
        assert seen.faults == []
    assert not calls.exists(), "no request leaves the computer: " + calls.read_text(encoding="utf-8")


@pytest.fixture
def page_alone(browser: Any) -> Iterator[Any]:
    """A page of a test's own, for an app of its own."""
    with page_of(browser) as page:
        yield page


@pytest.fixture
def page(window: Any, demo: DemoRun) -> Any:
    """The page with the demo's run on the Train tab, whatever an earlier test has left open."""
    show_run(window, demo)
    return window


def show_run(page: Any, demo: DemoRun) -> None:
    """Show the demo's run on the Train tab."""
    from playwright.sync_api import expect

    if not page.url.startswith(demo.app.address):
        open_page(page, demo.app)
    page.keyboard.press("Escape")
    open_tab(page, "Train")
    page.wait_for_selector("#train-run input")
    if page.locator("#train-run input").input_value() != demo.folder.name:
        pick(page, "#train-run", demo.folder.name)
        # Both runs may be finished: wait for the verdict of this one.
        expect(page.locator("#verdict")).to_contain_text("has followed its control images since")
    wait_for(page, "#train-status", "Finished")
