"""A run with two checkpoints that can be evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.conditions import places
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.demo.circles import make_circles
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace


@pytest.fixture(scope="module")
def prepared(tiny_base: Path, loud_controlnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on eight generated circles with two checkpoints of an untrained net."""
    root = tmp_path_factory.mktemp("evaluated")
    workspace = Workspace(root / "workspace")
    dataset = Dataset.create(workspace, "circles", scan_folder(make_circles(root / "circles", 8, size=64)))
    dataset.set_condition("own")
    nested = {
        "name": "tiny",
        "model": {"base": str(tiny_base)},
        "data": {"dataset": "circles", "resolution": 64, "held_out": 3},
        "validation": {"sampling_steps": 1},
    }
    run = create_run(workspace, resolve(("test", nested))[0], {})
    for step in (10, 20):
        folder = run.folder / "checkpoints" / f"step-{step:06d}"
        shutil.copytree(loud_controlnet, folder / "controlnet")
        files = {f"controlnet/{path.name}": path.stat().st_size for path in (folder / "controlnet").iterdir()}
        about = {"step": step, "images_seen": 8 * step, "files": files, "has_ema": False}
        (folder / "checkpoint.json").write_text(json.dumps(about), encoding="utf-8")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [10, 20]
    return run


@pytest.fixture
def own_workspace(prepared: Run) -> Workspace:
    found = Workspace(prepared.folder.parents[1])
    places.use(found)
    return found
