"""A base is taught a new shape by a LoRA, and a ControlNet is then trained on it: the whole way through the window."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.new_shape import write_set
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.browser.acting import IN_A_BROWSER, click, fill, open_page, pick, shoot, wait_for
from tests.browser.studio import open_tab, studio
from tests.browser.test_dataset_journey import make_maps

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
IMAGES, LORA_STEPS, NET_STEPS = 16, 20, 40


def train(page: Any, steps: int) -> None:
    """Start the run that the form describes, and wait until it has ended."""
    wait_for(page, "#train-status", "Ready to start")
    fill(page, "#set-train-steps input", str(steps))
    click(page, "#train-start")
    asked = page.locator("#train-anyway")
    page.wait_for_function(
        "document.querySelector('#train-anyway')?.offsetParent || !document.querySelector('#run-setup')?.offsetParent"
    )
    if asked.is_visible():  # the demo base is asked about once more
        asked.click()
    wait_for(page, "#train-status", "Finished", 1200)


def test_a_lora_and_then_a_controlnet_on_it(page_alone: Any, tmp_path: Path) -> None:
    page, workspace = page_alone, Workspace(tmp_path / "workspace")
    Dataset.create(workspace, "zrp", scan_folder(write_set(tmp_path / "zrp", IMAGES)))
    with studio(workspace.root) as app:
        open_page(page, app)
        open_tab(page, "Train")
        pick(page, "#set-data-dataset", "zrp")
        page.locator("#set-tuning-what").get_by_text("LoRA", exact=True).click()
        page.wait_for_function("document.querySelector('#set-train-steps input').value === '300'")
        train(page, LORA_STEPS)
        wait_for(page, "#verdict", "Gain: on held-out images")
        wait_for(page, "#chart-gain", "drift, other captions")
        shoot(page, "taught")
        (folder,) = (workspace.root / "runs").iterdir()

        click(page, "#controlnet-on-this")
        wait_for(page, "#train-status", "Not ready yet")
        assert len(list(folder.glob("exports/*.safetensors"))) == 1
        make_maps(page, "Canny edges", IMAGES)
        open_tab(page, "Train")
        train(page, NET_STEPS)
        shoot(page, "controlnet-on-lora")
        (net,) = (Run(one) for one in (workspace.root / "runs").iterdir() if one != folder)
        assert net.config.model.ingredients.endswith(".safetensors") and net.config.data.dataset == "zrp"

        open_tab(page, "Try it")
        page.wait_for_selector("#try-control img")
        click(page, "#try-make")
        page.wait_for_selector("#try-results img")
        wait_for(page, "#try-words", re.compile(rf"Step {NET_STEPS}, seed"))
        shoot(page, "try-on-lora")
