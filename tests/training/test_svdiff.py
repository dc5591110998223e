"""Runs that train singular values (SVDiff): resuming, what stays as it is, and what exports contain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.bases.merging import ready_base
from engine.config import parse
from engine.estimate.memory import predict
from engine.export.deliver import exports_in
from engine.export.out import export
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.nets.singular_values import SpectralConv2d, SpectralLinear
from engine.runs.run import Run, read_preview
from engine.training.job import build_trainer
from engine.training.new_run import missing
from engine.training.trainer import Trainer
from engine.tuning.svdiff import AVERAGED_SHIFTS, SHIFTS
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images, outputs
from tests.teaching_runs import run_of as run_that_teaches

KINDS = (SpectralLinear, SpectralConv2d)


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images")
    return workspace


def run_of(workspace: Workspace, base: Path, **sections: Any) -> Run:
    optim = {"learning_rate": 2e-2} | sections.pop("optim", {})
    tuning = {"what": "svdiff"} | sections.pop("tuning", {})
    return run_that_teaches(workspace, base, tuning=tuning, optim=optim, **sections)


def built(workspace: Workspace, run: Run) -> Trainer:
    return build_trainer(workspace, run, Control().token, lambda event: None)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2, "base_storage": "fp8"}, "optim": {"ema_decay": 0.9}},
        {"tuning": {"preserve": "answers", "class_prompt": "a red circle"}, "optim": {"offload": True}},
    ],
    ids=["bf16 over fp8, EMA", "preserved by answers, in RAM"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))
    assert (Run(paused.folder).checkpoints()[-1].folder / AVERAGED_SHIFTS).is_file() == (
        "ema_decay" in settings["optim"]
    )


def test_exports_draw_as_the_run_does(images_only: Workspace, tiny_base: Path) -> None:
    shown = {"every": 2, "pictures": 1, "sampling_steps": 2}
    run = run_of(images_only, tiny_base, validation=shown, train={"steps": 2})
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    first, last = (read_preview(run.folder / "previews" / f"step-{step:06d}") for step in (0, 2))
    assert first is not None and last is not None
    assert first.pictures[0].read_bytes() != last.pictures[0].read_bytes()

    folder, base = run.checkpoints()[-1].folder, str(tiny_base)
    assert all(shift.abs().max() > 1e-3 for shift in load_file(folder / SHIFTS).values())
    made = export(folder, "diffusers", run.exports, "mine", "fp32", base=base)
    assert "mean difference 0.00" in made.checked
    small = export(folder, "lora", run.exports, "small", "fp32", base=base, rank=256)
    assert "It keeps 100.0 % of what training has changed (rank 256)." in small.checked
    less = export(folder, "lora", run.exports, "less", "fp32", base=base, rank=2)
    kept = float(less.checked.split("It keeps ")[1].split(" %")[0])
    assert 5 < kept < 95 and f"It keeps {kept} %" in (less.card / "README.md").read_text(encoding="utf-8")  # type: ignore[operator]
    assert {one.path for one in exports_in(run.exports)} == {made.path, small.path, less.path}

    trainer = built(images_only, Run(run.folder))
    now = outputs(base, trainer.state.denoiser)
    with trainer.state.trainable.untrained():
        untrained = outputs(base, trainer.state.denoiser)
    trainer.close()
    family = detect(base)
    assert torch.equal(untrained, outputs(base, family.load_denoiser(base, torch.float32)))
    assert (now - untrained).abs().max() > 1e-2
    for where in (str(made.path), ready_base(images_only, f"{base} + {small.path}")):
        exported = outputs(where, family.load_denoiser(where, torch.float32))
        torch.testing.assert_close(exported, now, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sdxl"])
def test_memory_is_predicted(base: str, images_only: Workspace, request: pytest.FixtureRequest) -> None:
    run = run_of(images_only, request.getfixturevalue(base), train={"precision": "bf16"}, optim={"ema_decay": 0.9})
    predicted = predict(images_only, run.config, images=4).training
    trainer = built(images_only, run)
    trained = sum(parameter.nbytes for parameter in trainer.state.trainable.parameters())
    layers: list[Any] = [layer for layer in trainer.state.denoiser.modules() if isinstance(layer, KINDS)]
    trainer.close()
    assert predicted["trained weights"] == predicted["EMA"] == trained
    assert predicted["optimizer"] == 2 * trained
    assert predicted["singular vectors"] == sum(layer.spectrum.vectors.nbytes for layer in layers)


def test_bases_without_a_unet_are_refused(images_only: Workspace, tiny_sd3: Path) -> None:
    asked = {"tuning": {"what": "svdiff"}, "model": {"base": str(tiny_sd3)}, "data": {"dataset": "images"}}
    assert any("can be trained for Stable Diffusion 3" in sentence for sentence in missing(images_only, parse(asked)))
