"""A trainable that is no ControlNet and needs no condition maps: its runs train, pause and resume like any other."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.cli import export as export_commands
from engine.cli import sample
from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.evaluation.effect_job import measure_effect
from engine.evaluation.evaluate import evaluate
from engine.evaluation.grid import GridRequest
from engine.evaluation.grid_rows import rows_of
from engine.evaluation.loaded import load_models
from engine.export.checkpoint_average import average_checkpoints
from engine.families.registry import detect
from engine.inference import control_image
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.nets.ema import ema_names
from engine.nets.importing import open_controlnet
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.training.job import build_trainer
from engine.training.lending import borrowing
from engine.training.new_run import create_run
from engine.tuning.whole_base import DENOISER
from engine.workspace.paths import Workspace
from tests import whole_denoiser
from tests.compare_runs import assert_same_run, losses
from tests.short_runs import train

WHY = f"It trains the whole base. {whole_denoiser.NOT_DRAWN}"
HALF = {
    "train.precision": "bf16",
    "train.accumulation": 2,
    "train.channels_last": True,
    "optim.ema_decay": 0.9,
    "optim.optimizer": "adafactor",
}


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with the dataset "pictures": images and captions, no condition type chosen."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"noise {number}", encoding="utf-8")
    Dataset.create(workspace, "pictures", scan_folder(folder))
    return workspace


@pytest.fixture
def new_run(images_only: Workspace, make_config: Callable[..., RunConfig]) -> Iterator[Callable[..., Run]]:
    """Makes runs that train the whole denoiser."""
    with whole_denoiser.chosen():
        yield lambda **settings: create_run(
            images_only, make_config(**{"data.dataset": "pictures", "train.steps": 4, **settings}), {}
        )


def test_a_run_of_a_controlnet_needs_condition_maps(
    images_only: Workspace, make_config: Callable[..., RunConfig]
) -> None:
    with pytest.raises(UserError, match="condition maps"):
        create_run(images_only, make_config(**{"data.dataset": "pictures"}), {})


def test_it_trains_and_saves_and_says_that_it_draws_nothing(
    new_run: Callable[..., Run], images_only: Workspace, tiny_base: Path
) -> None:
    run = new_run(**{"validation.every": 1, "validation.check_every": 1})
    assert run.condition == {}
    asked = TryRequest(base=str(tiny_base), controlnet=LIVE, prompt="", control=Image.new("RGB", (64, 64)))
    requests = {2: borrowing(images_only, lambda session, token: session.generate([asked], token))}
    trained = train(images_only, run, at_step={1: "preview_now"}, requests=requests)
    assert trained.outcome == "completed"
    assert trained.warnings == [f"No images were drawn. {WHY}"]
    assert not (run.folder / "previews").exists()
    with pytest.raises(UserError) as refused:
        requests[2].wait(0)
    assert refused.value.why == WHY

    (saved,) = run.checkpoints()
    before = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(saved.folder / DENOISER)
    assert after.keys() == before.keys() and not any(torch.equal(after[name], before[name]) for name in before)
    assert_told_that_it_has_no_controlnet(images_only, run, saved)


def assert_told_that_it_has_no_controlnet(workspace: Workspace, run: Run, saved: Checkpoint) -> None:
    """Whoever wants the ControlNet of its checkpoint is told what was trained, not that a file is missing."""
    base = run.config.model.base
    drawing = TryRequest(base=base, controlnet=saved.controlnet, prompt="", control=Image.new("RGB", (64, 64)))
    asks: list[Callable[[], Any]] = [
        lambda: average_checkpoints([saved, saved], run.folder / "merged"),
        lambda: TrySession(workspace, "cpu").generate([drawing]),
        lambda: TrySession(workspace, "cpu").generate([replace(drawing, controlnet=saved.folder)]),
        lambda: load_models(workspace, run, saved),
        lambda: open_controlnet(saved.folder, detect(base), base),  # to start another run from it
    ]
    for ask in asks:
        with pytest.raises(UserError, match="has no ControlNet") as refused:
            ask()
        assert "trained the whole base" in refused.value.why and "whole base" not in refused.value.try_this
    assert not (workspace.root / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.long),
        HALF,
        pytest.param({**HALF, "optim.offload": True}, marks=pytest.mark.long),
    ],
    ids=["fp32", "bf16, EMA, channels last", "offload"],
)
def test_a_pause_and_checkpointing_change_no_bit(
    new_run: Callable[..., Run], images_only: Workspace, settings: dict[str, Any]
) -> None:
    """Gradient checkpointing computes the same gradients, so the run that is paused uses it and the other does not."""
    straight = new_run(**settings)
    paused = new_run(**settings, **{"train.gradient_checkpointing": "controlnet"})
    train(images_only, straight)
    assert train(images_only, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(images_only, paused).outcome == "completed"
    assert_same_run(straight, paused)
    assert len({loss for _, loss in losses(straight)}) == 4, "it learns"


def test_what_is_asked_for_is_applied_to_the_denoiser(new_run: Callable[..., Run], images_only: Workspace) -> None:
    run = new_run(**HALF, **{"train.gradient_checkpointing": "controlnet"})
    events: list[Any] = []
    trainer = build_trainer(images_only, run, Control().token, events.append)
    state = trainer.state
    assert state.nets.net is None and state.nets.denoiser is state.denoiser is state.trainable.weights.compute
    assert state.denoiser.down_blocks[0].gradient_checkpointing
    assert state.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert state.denoiser.dtype == torch.bfloat16 and state.trainable.master.dtype == torch.float32
    assert state.ema is not None and len(state.ema.shadow_params) == len(ema_names(state.trainable.averaged)) > 50
    weights = sum(parameter.numel() for parameter in state.trainable.parameters())
    trainer.close()
    adamw = run.config.model_copy(update={"optim": run.config.optim.model_copy(update={"optimizer": "adamw"})})
    predicted = predict(images_only, adamw)
    assert predicted.training["optimizer"] == 8 * weights, "the estimate counts what is trained"
    assert predicted.weights_of_checkpoint == 8 * weights, "and their average"


def test_who_would_draw_with_it_is_told_why_not(
    new_run: Callable[..., Run], images_only: Workspace, tmp_path: Path
) -> None:
    run, image = new_run(), Image.new("RGB", (64, 64))
    image.save(tmp_path / "map.png")
    options = sample_options([run.folder.name, "--control", str(tmp_path / "map.png")])
    asks: list[Callable[[], Any]] = [
        lambda: rows_of(images_only, run, GridRequest(controls=(tmp_path / "map.png",))),
        lambda: control_image.map_of(run, image),
        lambda: control_image.advice(images_only, run, image, is_map=False),
        lambda: sample.run(options, images_only, Control()),
        lambda: evaluate(images_only, run, unsaved(run)),
        lambda: measure_effect(images_only, run, unsaved(run)),
    ]
    for ask in asks:
        with pytest.raises(UserError, match="cannot be used here|No images can be drawn") as refused:
            ask()
        assert refused.value.why == WHY


def unsaved(run: Run) -> Checkpoint:
    """A checkpoint that is not read: the run is refused before."""
    return Checkpoint(run.folder / "checkpoints" / "step-000001", 1, 1, False, True, {})


def run_cli(words: list[str], workspace: Workspace) -> None:
    parser = argparse.ArgumentParser()
    export_commands.add_commands(parser.add_subparsers(dest="command"))
    export_commands.COMMANDS[words[0]](parser.parse_args(words), workspace, Control())


def sample_options(words: list[str]) -> Any:
    parser = argparse.ArgumentParser()
    sample.add_command(parser.add_subparsers())
    return parser.parse_args(["sample", *words])
