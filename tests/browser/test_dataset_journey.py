"""By clicks alone: a messy folder of photographs becomes a dataset with maps of two types that training accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser import messy_folder
from tests.browser.acting import IN_A_BROWSER, click, fill, open_page, shoot, wait_for
from tests.browser.studio import ROOT, Studio, open_tab, page_of, studio

pytestmark = IN_A_BROWSER
COLD = (str(ROOT / "tests" / "ui" / "server" / "cold.py"),)
FOUND = (
    "Nearly one colour (1)",
    "Identical files (1)",
    "Smaller than the training resolution (1)",
    "Very long or very tall (1)",
    "HTML in the caption (1)",
    "Empty file (1)",
    "Web page with an image's name (1)",
    "End of the file is missing (1)",
    "Rotated by a camera's metadata (EXIF) (1)",
)
LEFT_OUT = ("Nearly one colour", "Identical files", "Very long or very tall")


@pytest.fixture
def app(tmp_path: Path) -> Any:
    with studio(tmp_path / "workspace", program=COLD) as opened:
        yield opened


def view(page: Any, title: str) -> None:
    page.locator("#dataset-views").get_by_role("tab", name=title, exact=True).click()


def choose(page: Any, group: str, title: str) -> None:
    page.locator(group).get_by_text(title).first.click()


def make_maps(page: Any, title: str, images: int) -> None:
    """Select a type on the Conditions tab, look at its preview, and make all maps."""
    open_tab(page, "Conditions")
    page.click("#condition-type input")
    page.get_by_role("option", name=title, exact=True).click()
    page.wait_for_selector("#condition-preview img")
    wait_for(page, "#condition-about", "of the map is not black")
    shoot(page, f"messy-{title}")
    click(page, "#maps-make")
    wait_for(page, "#maps-result", f"{images} maps are ready")


def test_a_messy_folder_becomes_two_sets_that_training_accepts(browser: Any, app: Studio, tmp_path: Path) -> None:
    messy = messy_folder.make(tmp_path)
    before = {path: path.read_bytes() for path in messy.folder.rglob("*") if path.is_file()}
    images = messy.readable - len(LEFT_OUT)
    with page_of(browser) as page:
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(f"{error} {error.stack}"))
        open_page(page, app)
        fill(page, "#dataset-folder textarea, #dataset-folder input", str(messy.folder))
        wait_for(page, "#dataset-found", "a folder of images")
        fill(page, "#dataset-name textarea, #dataset-name input", "Größe 1")
        click(page, "#dataset-read")
        wait_for(page, "#dataset-outcome", f"{messy.readable} images, {messy.captions} captions")
        wait_for(page, "#dataset-summary", f"{messy.readable} images")
        wait_for(page, "#dataset-summary", "3 files could not be used")
        image = page.locator("#dataset-pictures .thumbnail-item").first
        frame = image.evaluate("(one) => getComputedStyle(one).borderColor")
        image.hover()
        assert image.evaluate("(one) => getComputedStyle(one).borderColor") == frame, "a frame means chosen"
        shoot(page, "messy-pictures")
        view(page, "Problems")
        wait_for(page, "#dataset-problems", "not found.jpg")

        view(page, "Check")
        click(page, "#doctor-check")
        for finding in FOUND:
            wait_for(page, "#doctor-findings", finding)
        for finding in LEFT_OUT:
            choose(page, "#doctor-findings", finding)
            wait_for(page, "#doctor-details h3", finding)
            click(page, "#doctor-exclude")
            wait_for(page, "#doctor-details", "1 left out")
            page.wait_for_selector("#doctor-undo", state="visible")
        choose(page, "#doctor-findings", "Rotated by")
        wait_for(page, "#doctor-details h3", "Rotated by")
        click(page, "#doctor-correct")
        wait_for(page, "#doctor-details", "1 corrected")
        shoot(page, "messy-check")
        wait_for(page, "#dataset-summary", f"{images} images")

        view(page, "Captions")
        choose(page, "#captions-view", "All at once")
        fill(page, "#captions-search textarea, #captions-search input", "part")
        fill(page, "#captions-by textarea, #captions-by input", "piece")
        click(page, "#captions-preview")
        wait_for(page, "#captions-result", "would change")
        click(page, "#captions-apply")
        wait_for(page, "#captions-result", re.compile(r"Replaced .part. with .piece.: \d+ captions changed"))
        choose(page, "#captions-view", "One by one")
        wait_for(page, "#captions-table", ", piece")
        click(page, "#captions-undo")
        wait_for(page, "#captions-result", "Undone: Replaced")
        wait_for(page, "#captions-table", ", part")
        shoot(page, "messy-captions")

        make_maps(page, "Canny edges", images)
        open_tab(page, "Train")
        wait_for(page, "#train-status", "Ready to start")
        shoot(page, "messy-train")
        make_maps(page, "Light and dark", images)
        open_tab(page, "Train")
        wait_for(page, "#train-status", "Ready to start")

        assert faults == []
    assert {path: path.read_bytes() for path in before} == before, "the person's own files are only read"
    assert "output values" not in app.printed(), "gradio warns of handlers whose answers do not fit"
