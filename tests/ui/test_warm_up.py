"""Once the libraries are loaded, threads only use them: two that load the same part at once see it half initialised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.runs.run import Run
from engine.workspace.paths import Workspace

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")
LEAVES = ("diffusers.schedulers.scheduling_", "torch.profiler.")
"""Loaded late without harm: these modules import only what is loaded already, so no other thread waits for them."""
SCRIPT = f"""
import json, sys, threading
from pathlib import Path
from engine.config import RunConfig
from engine.training.job import start_training
from engine.workspace.paths import Workspace
from ui.launch import warm_up
from ui.page.context import AppContext

def loaded():
    return {{name for name in sys.modules if name.split(".")[0] in {LIBRARIES}}}

workspace = Workspace(Path(sys.argv[1]))
context = AppContext(workspace)
warm_up(context, threading.Event())
known = loaded()
config = RunConfig.model_validate(json.loads(sys.argv[2]))
context.set_draft("demo", {{"data": {{"dataset": config.data.dataset}}, "model": {{"base": config.model.base}}}})
context.readiness()
start_training(context.runner, workspace, config, {{}})
assert context.runner.wait(300)
print(json.dumps(sorted(loaded() - known)))
"""


@pytest.mark.long
def test_pages_and_training_load_no_part_of_a_large_library(
    ready_workspace: Workspace, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(**{"train.steps": 2, "validation.every": 1, "validation.pictures": 1}).model_dump_json()
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ready_workspace.root), config], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    late = json.loads(run.stdout.splitlines()[-1])
    assert [Run(folder).last_step for folder in ready_workspace.run_folders()] == [2]
    assert [name for name in late if not name.startswith(LEAVES)] == []
    words = [line for line in run.stderr.splitlines() if line and "Loading weights:" not in line]
    assert words == [], "libraries print nothing that a user does not need to know"
