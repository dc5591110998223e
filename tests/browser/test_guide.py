"""My own images: from an empty workspace to a trained net by the checklist, with at most eight clicks.

The base comes from a hub on this machine, and the preset is for a short run on small images. All else is as the app
proposes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.bases.hub import files_of_base, serving
from tests.browser.acting import IN_A_BROWSER, click, open_page, shoot, wait_for
from tests.browser.small_run import STEPS
from tests.browser.studio import ROOT, studio, watch_foreign_requests

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SMALL = (str(ROOT / "tests" / "browser" / "small_run.py"),)
MOST_CLICKS = 8
COUNT_CLICKS = "window.clicks=0;addEventListener('click',event=>{window.clicks+=event.isTrusted},true)"
"""Presses by scripts, such as those of the guide's buttons, are not trusted events."""
NEXT = "#first-start button.go.next"


def height(page: Any) -> float:
    return float(page.locator("#first-start").bounding_box()["height"])


def look(page: Any, name: str, at_most: int) -> None:
    """Check that the card is no higher than that in pixels; take screenshots in both widths and colours if asked to."""
    assert height(page) <= at_most, name
    if not os.environ.get("STUDIO_SCREENSHOTS"):
        return
    for width in (1440, 900):
        for dark in (False, True):
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate(f"document.body.classList.toggle('dark', {str(dark).lower()})")
            shoot(page, f"guide-{name}-{width}{'-dark' if dark else ''}")
            assert height(page) <= 300, "never a third of the page"
    page.evaluate("document.body.classList.remove('dark')")
    page.set_viewport_size({"width": 1440, "height": 900})


def wait_for_focus(page: Any, selector: str) -> None:
    page.wait_for_function(f"document.activeElement?.matches('{selector}')")


def test_own_images_to_a_trained_net_in_eight_clicks(
    page_alone: Any, tmp_path: Path, tiny_base: Path, paired_folder: Path
) -> None:
    page, workspace = page_alone, tmp_path / "workspace"
    with (
        serving(SD15, files_of_base(tiny_base)) as hub,
        studio(workspace, program=SMALL, HF_ENDPOINT=hub.address, HF_HUB_CACHE=str(tmp_path / "cache")) as app,
    ):
        page.add_init_script(COUNT_CLICKS)
        foreign = watch_foreign_requests(page, app.address)
        open_page(page, app)
        wait_for(page, "#first-start", "Two ways to start")
        look(page, "1-two-ways", 230)

        click(page, "#guide-own")
        wait_for_focus(page, "#dataset-folder textarea, #dataset-folder input")
        wait_for(page, "#guide-own-way", "What the net follows")
        look(page, "2-images", 230)
        page.keyboard.type(str(paired_folder / "images"))
        page.keyboard.press("Tab")
        wait_for(page, "#dataset-found", "12 images")
        click(page, "#dataset-read")
        wait_for(page, "#dataset-summary", "12 images")

        wait_for(page, "#guide-title", "Make them")
        wait_for(page, "#guide-title", "✓ Captions")
        look(page, "3-control-images", 90)
        click(page, NEXT)
        wait_for_focus(page, "#maps-make")
        click(page, "#maps-make")
        wait_for(page, "#maps-result", "12 maps are ready")

        wait_for(page, "#guide-title", "Get a base")
        look(page, "4-base", 90)
        click(page, "#maps-result button.go")
        wait_for_focus(page, "#bases-download")
        click(page, "#bases-download")
        wait_for(page, "#guide-title", "✓ Base")

        wait_for(page, "#guide-title", "Go to Start")
        wait_for(page, "#cautions", "dataset check found")
        look(page, "5-start", 90)
        click(page, "#bases-message button.go")
        wait_for_focus(page, "#train-start")
        click(page, "#train-start")
        wait_for(page, "#guide-title", "Watch it")
        look(page, "6-training", 90)
        wait_for(page, "#train-status", "Finished", 600)
        wait_for(page, "#guide-title", "Your net is trained.")
        look(page, "7-trained", 90)

        assert 1 < page.evaluate("window.clicks") <= MOST_CLICKS
        assert len(list((workspace / "runs").glob(f"*/checkpoints/step-{STEPS:06d}/checkpoint.json"))) == 1
        assert foreign == []
        click(page, "#first-hide")
        page.wait_for_selector("#first-start", state="hidden")
        page.reload()
        wait_for(page, "#status-line", "Nothing is running")
        assert page.locator("#first-start").count() == 0 or not page.locator("#first-start").is_visible()
