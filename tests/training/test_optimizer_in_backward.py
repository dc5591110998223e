"""Runs that update their weights in the backward pass: from the first step, from a resume, and when memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.families.stable_diffusion import StableDiffusion
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.master_weights import MasterWeightSync
from engine.runs.run import Run
from engine.training import oom
from engine.training.oom import Fallback
from engine.tuning import facts
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, checked, train
from tests.training.test_oom import failing

NOT_CLIPPED = {"optim.max_grad_norm": 1e6, "train.steps": 4}


@pytest.mark.parametrize(
    "settings",
    [
        {"optim.ema_decay": 0.9},
        pytest.param(
            {"train.precision": "bf16", "model.control_lora_rank": 4, "optim.master_weights": "split"},
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"train.precision": "bf16", "objective.sd_locked": False, "train.gradient_checkpointing": "both"},
            marks=pytest.mark.long,
        ),
        pytest.param({"objective.sd_locked": False, "optim.optimizer": "adafactor"}, marks=pytest.mark.long),
    ],
)
def test_a_run_without_clipping_has_the_same_bits_also_paused_and_resumed(
    settings: dict[str, Any], new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "UPDATED_TOGETHER", 5_000)
    ordinary, run = (new_run(**settings, **NOT_CLIPPED, **{"optim.in_backward": here}) for here in (False, True))
    train(ready_workspace, ordinary)
    assert train(ready_workspace, run, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, Run(run.folder)).outcome == "completed"
    assert_same_checkpoint(ordinary.checkpoints()[-1].folder, run.checkpoints()[-1].folder)


def test_where_memory_runs_out_a_run_may_go_on_this_way(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the middle of a backward pass of it, too: no weight is updated twice."""
    monkeypatch.setattr(facts, "UPDATED_TOGETHER", 5_000)
    settings = {**NOT_CLIPPED, "train.precision": "bf16"}
    calm, run = new_run(**settings), checked(new_run(**settings))
    train(ready_workspace, calm)
    monkeypatch.setattr(StableDiffusion, "predict", failing(StableDiffusion.predict, 2, 1))
    monkeypatch.setattr(oom, "next_fallback", lambda *given: Fallback({"optim.in_backward": True}, "updates at once"))
    monkeypatch.setattr(CompactMasterWeights, "update", failing(CompactMasterWeights.update, 1, 30))
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed" and len(trained.warnings) == 3
    assert Run(run.folder).about["memory_ladder"][0]["settings"] == {"optim.in_backward": True}
    assert_same_checkpoint(calm.checkpoints()[-1].folder, run.checkpoints()[-1].folder)


def test_a_skipped_step_says_what_it_has_changed(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = MasterWeightSync.gradients, []

    def damaged(self: MasterWeightSync, masters: list[nn.Parameter]) -> list[torch.Tensor]:
        gradients = read(self, masters)
        calls.append(1)
        if len(calls) == 2:  # one for each step
            gradients[0].fill_(torch.inf)
        return gradients

    monkeypatch.setattr(MasterWeightSync, "gradients", damaged)
    trained = train(ready_workspace, new_run(**{"train.steps": 3, "optim.in_backward": True}))
    assert trained.outcome == "completed"
    (skipped,) = trained.warnings
    assert skipped.startswith("Step 2 was skipped") and "those with finite gradients have been" in skipped
