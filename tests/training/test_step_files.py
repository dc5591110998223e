"""CONTRIBUTING lists the files of one training step: the modules that a real step calls, and no others."""

from __future__ import annotations

import re
import sys
import threading
from types import FrameType
from typing import Any

import torch

from engine.jobs.control import Control
from engine.training.faults import take_step
from engine.training.job import build_trainer
from engine.workspace.paths import APP_FOLDER, Workspace
from tests.short_runs import RunFactory

SECTION = (
    (APP_FOLDER / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## One step, file by file")[1].split("\n## ")[0]
)
TO_OPEN = set(re.findall(r"^ ?\d+\. `(engine/[\w/]+\.py)`", SECTION, flags=re.MULTILINE))
PASSED = set(re.findall(r"`(engine/[\w/]+\.py)`", SECTION)) - TO_OPEN
READING = ("engine/data/", "engine/disk/", "engine/conditions/")
"""What the thread does that reads the next batch, below engine/data/cache.py."""


def called(work: Any) -> set[str]:
    """The engine's modules in which something was called, in any thread, as paths from the app's folder."""
    found: set[str] = set()
    engine = str(APP_FOLDER / "engine")

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(engine):
            found.add(frame.f_code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return {path.removeprefix(f"{APP_FOLDER}/").replace("\\", "/") for path in found}


def test_a_step_calls_the_files_of_the_list(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.precision": "bf16", "optim.ema_decay": 0.9, "objective.min_snr_gamma": 5.0})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    assert isinstance(take_step(state), torch.Tensor)
    state.step_done()

    def one_step() -> None:
        state.set_learning_rate(1e-4)
        assert isinstance(take_step(state), torch.Tensor)

    files = called(one_step)
    trainer.close()
    assert len(TO_OPEN) <= 12 and all((APP_FOLDER / name).is_file() for name in TO_OPEN | PASSED)
    unlisted = {name for name in files - TO_OPEN - PASSED if not name.startswith(READING)}
    assert unlisted == set(), "a step passes through files that CONTRIBUTING does not name"
    not_called = TO_OPEN - files - {"engine/training/trainer.py", "engine/data/cache.py"}
    assert not_called == set(), "CONTRIBUTING sends readers to files in which a step calls nothing"
