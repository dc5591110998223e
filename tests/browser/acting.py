"""What a person does with a page: look, click, type, wait. Helpers for the tests that drive a browser."""

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
    pytest.mark.timeout(1800),  # the first test trains the demo, which takes long on a busy machine
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium, Chrome or Edge on this machine"),
]
BUSY = re.compile(r"step [\d,]+ of")


def shoot(page: Any, name: str) -> None:
    """Take a screenshot if STUDIO_SCREENSHOTS names a folder for it."""
    folder = os.environ.get("STUDIO_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(700)  # charts are drawn a moment after their data arrives
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
    """Unfold an accordion, if it is not open."""
    head = page.locator(f"#{box} > button")
    if "open" not in (head.get_attribute("class") or "").split():
        head.click()


def fill(page: Any, selector: str, value: str) -> None:
    """Type like a person, who then leaves the field. Retries, because a page that still loads may reset it."""
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
    """Pick an entry of a list. If the list is refilled while it is open, open it again."""
    from playwright.sync_api import TimeoutError as TooLate

    offered: list[str] = []
    for _ in range(20):
        page.click(f"{selector} input")
        try:
            page.get_by_role("option", name=entry).first.click(timeout=4_000)
            return
        except TooLate:
            offered = page.get_by_role("option").all_inner_texts()
            page.locator(f"{selector} input").blur()  # it opens when it gets the focus, not at a second click
    raise AssertionError(f"{selector} does not offer {entry}, but {offered}")


def wait_for_files(page: Any, app: Studio, pattern: str, count: int) -> list[Path]:
    """Wait for at least ``count`` files that match a pattern in the folder of runs, and return them."""
    for _ in range(10 * PATIENCE):
        found = sorted((app.workspace / "runs").glob(pattern))
        if len(found) >= count:
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"{pattern}: {count} were awaited")
