"""A newcomer's whole way through the window: demo set, training, verdict, Try it, export."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.acting import IN_A_BROWSER, click, fill, shoot, unfold, wait_for, wait_for_count
from tests.browser.demo_run import STEPS, DemoRun
from tests.browser.studio import open_tab

pytestmark = IN_A_BROWSER
DOT = re.compile(r"(?P<line>.+): (?P<value>−?[\d.]+(e[+−]?\d+)?) at (?P<step>[\d,]+)$")


def on_the_chart(page: Any, chart: str) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of the dots of each line."""
    page.wait_for_selector(f"{chart} .area > b")
    lines: dict[str, list[tuple[int, float]]] = {}
    for title in page.locator(f"{chart} .area > b").evaluate_all("dots => dots.map(dot => dot.title)"):
        dot = DOT.match(title)
        assert dot, title
        point = int(dot["step"].replace(",", "")), float(dot["value"].replace("−", "-"))
        lines.setdefault(dot["line"], []).append(point)
    return lines


def test_the_page_shows_that_adherence_rises(page: Any) -> None:
    wait_for(page, "#train-pictures-head", f"step {STEPS}")  # comes with the last score
    lines = on_the_chart(page, "#chart-score")
    for line in ("contours as in the original", "right place"):
        (first, blind), (last, best) = lines[line][0], lines[line][-1]
        assert (first, last) == (0, STEPS)
        assert blind < 0.25, "a net that was not trained yet draws things anywhere"
        assert best > blind + 0.3
    gain = on_the_chart(page, "#chart-gain")["held-out pairs"]
    assert gain[0] == (0, 0) and gain[-1][1] > 50, "in percent of the loss"
    wait_for(page, "#verdict", re.compile(r"Adherence of the images: 0\.\d\d, after -?0\.\d\d at step 0"))
    shoot(page, "train-finished")


def test_the_verdict_names_convergence_and_the_best_checkpoint(page: Any, demo: DemoRun) -> None:
    words = page.locator("#verdict .sentence").inner_text()
    since, best = (
        re.search(r"followed its control images since step (\d+) ", words),
        re.search(r"Best checkpoint so far: step (\d+)", words),
    )
    assert since and best, words
    assert 0 < int(since[1]) < STEPS
    assert int(best[1]) >= int(since[1])
    assert (demo.folder / "checkpoints" / f"step-{int(best[1]):06d}" / "checkpoint.json").exists()
    wait_for(page, "#chart-gain .legend", f"follows the control image step {since[1]}")
    unfold(page, "evaluate-box")
    page.click("#evaluate-checkpoint input")
    page.get_by_role("option", name=f"step {best[1]} (the best)").wait_for()


def test_images_and_a_grid_are_generated_during_training(demo: DemoRun) -> None:
    assert demo.live_words.startswith("Live weights")
    live = re.search(r"now \(step (\d+)\)", demo.grid_columns[-1])
    assert live and 0 < int(live[1]) < STEPS
    assert demo.grid_columns[1:3] == ["control image", "without ControlNet"]
    assert demo.grid_cells == 2 * (len(demo.grid_columns) - 1), "but for the words of each row"
    assert all(re.search(r"step [\d,]+ of", line) for line in demo.busy), "it went on training"


def test_cancelling_pausing_and_a_second_page(demo: DemoRun) -> None:
    assert len(demo.before) <= 1, "cancelled: nothing is left but what stopping saves"
    assert re.search(rf"step \d+ of {STEPS}", demo.paused)
    assert demo.foreign == []
    assert demo.faults == []


def test_try_it_and_export(page: Any, demo: DemoRun) -> None:
    open_tab(page, "Try it")
    page.wait_for_selector("#try-control img")
    click(page, "#try-make")
    wait_for(page, "#try-words", re.compile(r"Step \d+, seed 0"))
    wait_for_count(page, "#try-results .grid-wrap img", 3)
    shoot(page, "try-it")

    open_tab(page, "Export")
    click(page, "#export-make")
    wait_for(page, "#export-result", "The export is ready")
    wait_for(page, "#export-result", "Checked")
    shoot(page, "export")
    assert len(list(demo.folder.glob("exports/*.safetensors"))) == 1
    answer_and_check(page, demo)

    open_tab(page, "Settings & help")
    wait_for(page, "#tab-settings", "Versions")
    shoot(page, "settings")


def answer_and_check(page: Any, demo: DemoRun) -> None:
    """Answer a question about the training data, have it checked, and find both in the card of the export."""
    unfold(page, "sharing")
    fill(page, "#sharing-data_source textarea", "drawn by <b>this</b> app")
    click(page, "#sharing-save")
    wait_for(page, "#sharing-saved", "Not answered: Licence of the training images")
    click(page, "#sharing-check")
    wait_for(page, "#sharing-found", re.compile(r"Near copies of training images\s*\d+ of \d+ images drawn"))
    wait_for(page, "#sharing-found", re.compile(r"In \d+ captions, most often: .*circle"))
    near = re.match(r"(\d+) of", page.locator("#sharing-found td").first.inner_text())
    assert near and (int(near[1]) == 0 or "Look at these yourself" in page.locator("#sharing-found").inner_text())
    shoot(page, "export-sharing")
    (card,) = demo.folder.glob("exports/*_card/README.md")
    words = card.read_text(encoding="utf-8")
    for row in (
        r"drawn by .*this.* app",
        r"Licence of the training images.*not answered",
        rf"{near[0]} \d+ images drawn",
    ):
        assert re.search(row, words), row
    assert "<b>" not in words and "not measured" not in words


def test_a_missing_folder_is_reported_on_a_panel_that_stays(page: Any, request: pytest.FixtureRequest) -> None:
    usual = page.viewport_size
    request.addfinalizer(lambda: page.set_viewport_size(usual))
    page.set_viewport_size({"width": 900, "height": 800})
    open_tab(page, "Dataset")
    page.wait_for_selector("#dataset-read", state="hidden")  # there is a set: it folds a moment after opening
    page.click("#dataset-sources > button")
    page.wait_for_selector("#dataset-read", state="visible")
    page.fill("#dataset-folder textarea, #dataset-folder input", "/nowhere/<b>pictures</b>")
    page.click("#dataset-read")
    wait_for(page, "#problem", "does not exist")
    wait_for(page, "#problem", "<b>pictures</b>")  # as text, not as HTML
    page.reload()
    wait_for(page, "#problem", "What to try")
    page.click("#problem-dismiss")
    page.wait_for_selector("#problem", state="hidden")
