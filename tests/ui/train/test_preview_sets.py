"""The newest preview images, and earlier ones by the slider's step."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from engine.jobs.events import PreviewMade
from engine.workspace.paths import Workspace
from ui.train.preview_sets import set_near, shown_set, slider


def run_with_sets(workspace: Workspace, *steps: int) -> Path:
    folder = workspace.new_run("one")
    (folder / "run.json").write_text(json.dumps({"config": {}}), encoding="utf-8")
    for step in steps:
        made = folder / "previews" / f"step-{step:06d}"
        made.mkdir(parents=True)
        Image.new("RGB", (96, 32), (step % 256, 0, 0)).save(made / "0.png")
        about = {"step": step, "pictures": ["0.png"], "captions": ["a <b>"], "mean": {"obeys": 0.1}}
        (made / "scores.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def test_the_slider_moves_in_training_steps_and_finds_the_nearest_set(workspace: Workspace) -> None:
    shown = slider([0, 100, 200, 250])
    assert (shown.minimum, shown.maximum, shown.step, shown.value) == (0, 250, 50, 250)
    assert slider([0]).visible is False and slider([]).visible is False
    folder = run_with_sets(workspace, 0, 100, 250)
    assert [getattr(set_near(folder, at), "step", None) for at in (0, 60, 150, 240)] == [0, 100, 100, 250]
    assert set_near(folder / "gone", 0) is None


def test_each_image_opens_large_and_has_its_prompt_as_text(workspace: Workspace) -> None:
    preview = set_near(run_with_sets(workspace, 1_000), 0)
    assert isinstance(preview, PreviewMade)
    heading, images = shown_set(preview, workspace.thumbnails)
    assert "Preview images at step 1,000" in heading
    assert images.count("class='cell'") == 1 and images.count("<dialog") == 1 and "a &lt;b&gt;" in images
    assert str(workspace.thumbnails) in images, "a folder that the app serves"
    preview.pictures[0].unlink()
    assert "class='cell'" not in shown_set(preview, workspace.thumbnails)[1], "deleted meanwhile"
    assert shown_set(None, workspace.thumbnails) == ["", ""]
