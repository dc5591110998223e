"""Each family of transformers by clicks on a tiny base: chosen, trained, paused, judged, tried and exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.demo.sets import make_demo_set
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.browser.acting import BUSY, IN_A_BROWSER, click, open_page, pick, shoot, wait_for, wait_for_count
from tests.browser.small_run import STEPS
from tests.browser.studio import PATIENCE, ROOT, open_tab, studio

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
PROGRAM = (str(ROOT / "tests" / "browser" / "small_run.py"),)


@pytest.mark.parametrize("family", ["sd3", "flux", "zimage"])
def test_a_base_is_chosen_trained_judged_tried_and_exported(
    family: str, page_alone: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page, workspace, slow = page_alone, Workspace(tmp_path / "workspace"), tmp_path / "slow"
    make_demo_set(workspace, "circles", 8)
    shutil.copytree(request.getfixturevalue(f"tiny_{family}"), workspace.models / "tiny-base")
    slow.touch()
    with studio(workspace.root, program=PROGRAM, STUDIO_SLOW=str(slow)) as app:
        open_page(page, app)
        _choose(page, family)
        _train_with_a_pause(page, family, slow)
        (folder,) = workspace.run_folders()
        run = Run(folder)
        assert run.config.model.base == "tiny-base"
        _look_at_the_run(page, family)
        _try(page, family)
        _export(page)
        assert len(list(folder.glob("exports/*.safetensors"))) == 1


def _choose(page: Any, family: str) -> None:
    """Choose preset and base; the dataset is the only one. Each choice fills the form before the next is made."""
    from playwright.sync_api import expect

    open_tab(page, "Train")
    pick(page, "#train-preset", "No graphics card")
    expect(page.locator("#set-train-steps input")).to_have_value(str(STEPS), timeout=1000 * PATIENCE)
    pick(page, "#set-model-base", "tiny-base")
    expect(page.locator("#set-model-base input")).to_have_value("tiny-base", timeout=1000 * PATIENCE)
    wait_for(page, "#train-status", "Ready to start")
    shoot(page, f"{family}-ready")


def _train_with_a_pause(page: Any, family: str, slow: Path) -> None:
    click(page, "#train-start")
    wait_for(page, "#status-line", BUSY)
    click(page, "#train-pause")
    wait_for(page, "#train-status", "Paused")
    shoot(page, f"{family}-paused")
    slow.unlink()
    click(page, "#train-resume")
    wait_for(page, "#train-status", "Finished", 600)
    wait_for_count(page, "#train-status .problem", 0)


def _look_at_the_run(page: Any, family: str) -> None:
    page.wait_for_selector("#train-pictures .cell img")
    wait_for(page, "#train-pictures-head", f"step {STEPS}")
    page.wait_for_selector("#chart-score .area > b")
    wait_for(page, "#verdict", "The net does not follow its control images")  # nobody learns that in four steps
    wait_for(page, "#verdict", "Control gain")
    shoot(page, f"{family}-finished")


def _try(page: Any, family: str) -> None:
    open_tab(page, "Try it")
    page.wait_for_selector("#try-control img")
    click(page, "#try-make")
    wait_for(page, "#try-words", "Saved in")
    wait_for_count(page, "#try-results .grid-wrap img", 3)  # the map, with and without the net
    shoot(page, f"{family}-try")


def _export(page: Any) -> None:
    open_tab(page, "Export")
    click(page, "#export-make")
    wait_for(page, "#export-result", "The export is ready")
    wait_for(page, "#export-result", "Checked")
