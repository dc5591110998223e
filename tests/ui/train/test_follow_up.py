"""The button after a run that taught the base, and the panel that draws a ControlNet on a LoRA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine.jobs.control import Control
from engine.training import follow_up as engine_follow_up
from engine.workspace.paths import Workspace
from tests.short_runs import train
from tests.training.test_lora import images_only, run_of  # noqa: F401
from ui.page.context import AppContext
from ui.train import transfer_panel
from ui.train.follow_up import can_follow, follow_up_job


def test_the_form_is_filled_for_a_controlnet_on_the_taught_base(
    images_only: Workspace,  # noqa: F811
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(images_only, tiny_base, train={"steps": 1}, validation={"check_every": 0})
    context = AppContext(images_only)
    context.show_run(run.name)
    assert not can_follow(context, context.view()), "it has not been trained"
    train(images_only, run)
    context = AppContext(images_only)
    context.show_run(run.name)
    view = context.view()
    assert view.history.kept and can_follow(context, view)
    assert not can_follow(context, replace(view, shown_run=""))

    monkeypatch.setattr(engine_follow_up, "exported_for_controlnet", lambda *_: Path("/exports/style.safetensors"))
    number = context.draft.number
    assert follow_up_job(context, run.name)(Control().token, lambda event: None) == "completed"
    config = context.config_of(context.draft)[0]
    assert (config.tuning.what, config.data.dataset) == ("controlnet", "images")
    assert config.model.whole_base == f"{tiny_base} + /exports/style.safetensors"
    assert context.draft.number > number and context.view().shown_run == ""


def test_the_newest_transfer_is_shown_and_a_damaged_one_is_not(images_only: Workspace, tiny_base: Path) -> None:  # noqa: F811
    run = run_of(images_only, tiny_base)
    folder = run.folder / "evaluation" / "transfer-000002"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "transfer-00.webp")
    found = {"step": 2, "files": ["<b>.safetensors"], "own": None, "other": None, "change": None, "pairs": 1}
    (folder / "transfer.json").write_text(json.dumps(found | {"rows": [["transfer-00.webp", "a"]]}), encoding="utf-8")
    context = AppContext(images_only)
    context.show_run(run.name)
    words, gallery = transfer_panel.show(context, context.view())
    assert "Step 2: " in words and "&lt;b&gt;" in words and gallery.visible
    (folder / "transfer.json").write_text("{", encoding="utf-8")
    assert transfer_panel.show(context, context.view())[0] == ""
