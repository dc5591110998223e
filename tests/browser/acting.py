"""What a person does with a page: look, click, type, wait. For the tests that drive a browser."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.studio import PATIENCE, Studio, find_chromium

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first of them trains the demo, which a busy machine may take long for
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium, Chrome or Edge on this machine"),
]
BUSY = re.compile(r"step [\d,]+ of")


def shoot(page: Any, name: str) -> None:
    """A screenshot into the folder that STUDIO_SCREENSHOTS names, if it does."""
    folder = os.environ.get("STUDIO_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(700)  # charts are drawn a moment after their data came
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def open_page(page: Any, app: Studio) -> None:
    page.goto(app.address)
    page.wait_for_selector("#status-line .status")


def wait_for(page: Any, selector: str, text: str | re.Pattern[str], seconds: float = PATIENCE) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=seconds * 1000)


def wait_while(page: Any, selector: str, text: str, seconds: float = PATIENCE) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).not_to_contain_text(text, timeout=seconds * 1000)


def wait_for_count(page: Any, selector: str, count: int, seconds: float = PATIENCE) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(count, timeout=seconds * 1000)


def click(page: Any, selector: str, seconds: float = PATIENCE) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_be_enabled(timeout=seconds * 1000)
    page.click(selector)


def unfold(page: Any, box: str) -> None:
    """Open a folded part of the page, if it is not open."""
    head = page.locator(f"#{box} > button")
    if "open" not in (head.get_attribute("class") or "").split():
        head.click()


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


def pick(page: Any, selector: str, entry: str | re.Pattern[str]) -> None:
    """An entry of a list. The list may be filled anew while it is open: then it is opened again."""
    from playwright.sync_api import TimeoutError as TooLate

    offered: list[str] = []
    for _ in range(20):
        page.click(f"{selector} input")
        try:
            page.get_by_role("option", name=entry).first.click(timeout=4_000)
            return
        except TooLate:
            offered = page.get_by_role("option").all_inner_texts()
            page.locator(f"{selector} input").blur()  # it opens when it is entered, not when it is clicked again
    raise AssertionError(f"{selector} does not offer {entry}, but {offered}")


def wait_for_files(page: Any, app: Studio, pattern: str, count: int) -> list[Path]:
    """At least ``count`` files of the runs, by a pattern from the runs' folder on."""
    for _ in range(10 * PATIENCE):
        found = sorted((app.workspace / "runs").glob(pattern))
        if len(found) >= count:
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"{pattern}: {count} were awaited")
