"""Runs that train the whole base: they pause and resume like any other, and draw previews from captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import parse
from engine.errors import UserError
from engine.families.registry import detect
from engine.runs.run import Run, read_preview
from engine.training.new_run import missing
from engine.tuning.whole_base import AVERAGED_DENOISER, DENOISER
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images, run_of

BASE = {"what": "base"}


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images")
    return workspace


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        pytest.param({"optim": {"offload": True, "optimizer": "adafactor"}}, marks=pytest.mark.long),
        pytest.param(
            {"train": {"gradient_checkpointing": "both"}, "optim": {"in_backward": True}}, marks=pytest.mark.long
        ),
        pytest.param({"train": {"precision": "bf16"}, "optim": {"master_weights": "split"}}, marks=pytest.mark.long),
    ],
    ids=["bf16, EMA", "in RAM, Adafactor", "checkpointing, in backward", "split"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, tuning=BASE, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))
    averaged = "ema_decay" in settings.get("optim", {})
    assert (Run(paused.folder).checkpoints()[-1].folder / AVERAGED_DENOISER).is_file() == averaged


def test_every_weight_learns_and_previews_are_drawn_from_captions(images_only: Workspace, tiny_base: Path) -> None:
    shown = {"every": 2, "pictures": 1, "sampling_steps": 2, "prompts": "a red circle"}
    run = run_of(images_only, tiny_base, tuning=BASE, validation=shown, train={"steps": 2}, optim={"ema_decay": 0.9})
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    before = detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32).state_dict()
    after = load_file(run.checkpoints()[-1].folder / DENOISER)
    assert after.keys() == before.keys() and not any(torch.equal(after[name], before[name]) for name in before)
    first, last = (read_preview(run.folder / "previews" / f"step-{step:06d}") for step in (0, 2))
    assert first is not None and last is not None
    for name in ("00.webp", "p00.webp"):
        assert (first.pictures[0].parent / name).read_bytes() != (last.pictures[0].parent / name).read_bytes()


def test_what_cannot_be_trained_is_refused(images_only: Workspace, tiny_sd3: Path) -> None:
    config = parse({"tuning": BASE, "model": {"base": str(tiny_sd3)}, "data": {"dataset": "images"}})
    assert any(
        "whole base can be trained for Stable Diffusion 3" in sentence for sentence in missing(images_only, config)
    )
    with pytest.raises(UserError, match="A whole base is trained without a ControlNet"):
        parse({"tuning": BASE, "model": {"control_lora_rank": 8}})
    with pytest.raises(UserError, match="cannot be kept in fp8"):
        parse({"tuning": BASE, "train": {"base_storage": "fp8"}})
