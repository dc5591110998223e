"""The demo on the transformer, by clicks: from the first start to an image with its ControlNet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.acting import IN_A_BROWSER, click, open_page, pick, shoot, unfold, wait_for, wait_for_count
from tests.browser.studio import open_tab, studio

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
MINUTES = 15  # on a busy machine; 5 on a quiet one


def test_the_demo_on_the_transformer_in_three_clicks(page_alone: Any, tmp_path: Path) -> None:
    page = page_alone
    with studio(tmp_path / "workspace") as app:
        open_page(page, app)
        wait_for(page, "#first-start", "Two ways to start")
        click(page, "#guide-demo")
        wait_for(page, "#first-start", "three clicks")
        unfold(page, "first-options")
        pick(page, "#first-base", re.compile("^Transformer"))
        shoot(page, "transformer-options")
        click(page, "#first-1")
        wait_for(page, "#dataset-summary", "2,000 images")
        click(page, "#first-2")
        wait_for(page, "#train-status", "Finished", MINUTES * 60)
        wait_for(page, "#verdict", "has followed its control images since")
        wait_for(page, "#verdict", re.compile(r"Adherence of the images: 0\.[89]\d"))
        wait_for_count(page, "#train-status .problem", 0)
        shoot(page, "transformer-finished")

        open_tab(page, "Try it")
        open_tab(page, "Compare checkpoints")
        page.wait_for_selector("#compare-steps input:checked")
        click(page, "#compare-make")
        wait_for(page, "#compare-grid", "best according to the verdict")
        page.wait_for_selector("#compare-cancel", state="hidden")
        shoot(page, "transformer-grid")
        open_tab(page, "One image")
        page.wait_for_selector("#try-control img")
        click(page, "#try-make")
        wait_for(page, "#try-words", "Saved in")
        wait_for_count(page, "#try-results .grid-wrap img", 3)  # the map, with and without the net
        shoot(page, "transformer-try")
        open_tab(page, "Train")
        click(page, "#train-new")
        wait_for(page, "#train-status", "Ready to start")
        assert page.locator("#set-model-base input").input_value() == "demo-transformer"
