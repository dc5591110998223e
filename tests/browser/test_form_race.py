"""The form of the next run while it is filled anew: what a person is choosing or typing meanwhile is not lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.acting import IN_A_BROWSER, open_page, pick
from tests.browser.studio import open_tab, page_of, studio

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
BASE = "#set-model-base input"


def test_what_is_chosen_while_the_form_is_filled_anew_stays(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with studio(tmp_path / "workspace") as app, page_of(browser) as page:
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(f"{error} {error.stack}"))
        other = page.context.new_page()
        for one in (page, other):
            open_page(one, app)
            open_tab(one, "Train")

        page.bring_to_front()
        page.click(BASE)
        page.keyboard.press("Control+a")
        page.keyboard.type("demo-tr")
        pick(other, "#train-preset", "No graphics card")  # brings all its values to both pages
        page.wait_for_timeout(5_000)
        assert page.locator(BASE).input_value() == "demo-tr", "an open list keeps what was typed"
        page.get_by_role("option", name="demo-transformer").first.click()
        expect(other.locator(BASE)).to_have_value("demo-transformer")
        expect(page.locator("#train-preset input")).to_have_value("No graphics card")

        page.route("**/queue/join*", lambda route: (page.wait_for_timeout(1_000), route.continue_()))
        pick(page, BASE.removesuffix(" input"), "demo")
        pick(page, BASE.removesuffix(" input"), "demo-transformer")  # while the first choice is on its way
        pick(page, BASE.removesuffix(" input"), "demo")
        page.unroute_all(behavior="wait")
        expect(other.locator(BASE)).to_have_value("demo")
        page.wait_for_timeout(3_000)
        expect(page.locator(BASE)).to_have_value("demo")
        assert faults == []
