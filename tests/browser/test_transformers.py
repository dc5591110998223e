"""Each family of transformers by clicks on a tiny base: chosen, trained, tried and exported."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.demo.sets import make_demo_set
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.browser.acting import IN_A_BROWSER, click, open_page, pick, shoot, wait_for, wait_for_count
from tests.browser.studio import ROOT, open_tab, studio

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
PROGRAM = (str(ROOT / "tests" / "browser" / "small_run.py"),)
FAMILIES = ("sd3", "flux", "zimage")


def test_a_base_of_each_family_is_chosen_trained_tried_and_exported(
    page_alone: Any, tmp_path: Path, tiny_sd3: Path, tiny_flux: Path, tiny_zimage: Path
) -> None:
    page, workspace = page_alone, Workspace(tmp_path / "workspace")
    make_demo_set(workspace, "circles", 8)
    for family, folder in zip(FAMILIES, (tiny_sd3, tiny_flux, tiny_zimage), strict=True):
        shutil.copytree(folder, workspace.models / f"tiny-{family}")
    with studio(workspace.root, program=PROGRAM) as app:
        open_page(page, app)
        for number, family in enumerate(FAMILIES, 1):
            open_tab(page, "Train")
            if number > 1:
                click(page, "#train-new")
            pick(page, "#set-data-dataset", "demo-circles-8")
            pick(page, "#set-model-base", re.compile(f"tiny-{family}"))
            wait_for(page, "#train-status", "Ready to start")
            shoot(page, f"{family}-ready")
            click(page, "#train-start")
            wait_for(page, "#train-status", "Finished", 600)
            wait_for_count(page, "#train-status .problem", 0)
            page.wait_for_selector("#train-pictures .cell img")
            shoot(page, f"{family}-finished")

            open_tab(page, "Try it")
            page.wait_for_selector("#try-control img")
            click(page, "#try-make")
            page.wait_for_selector("#try-results img")
            wait_for(page, "#try-words", "Saved in")
            shoot(page, f"{family}-try")

            open_tab(page, "Export")
            click(page, "#export-make")
            wait_for(page, "#export-result", "The export is ready")
            wait_for(page, "#export-result", "Checked")
            runs = [Run(folder) for folder in workspace.run_folders()]
            assert len(runs) == number
            assert {run.config.model.base for run in runs} >= {f"tiny-{family}"}
