"""Time and disk in words, before a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.estimate.estimate import estimate
from engine.families.files import denoiser_parameters
from engine.jobs.events import StepDone
from engine.machine.hardware import Hardware
from engine.runs.run import Recorder, write_run
from engine.workspace.paths import Workspace

CPU = Hardware("cpu", "x", None, 16, 8, "2.13.0+cpu")
CARD = Hardware("cuda", "RTX 3060", 12.0, 16, 8, "2.13.0+cu126")


def config(base: str = "owner/sd15", **train: object) -> RunConfig:
    return resolve(("test", {"model": {"base": base}, "train": {"steps": 1000, "batch_size": 4, **train}}))[0]


def test_a_processor_takes_far_longer_than_a_card(workspace: Workspace) -> None:
    assert estimate(config(), workspace, CPU).seconds > 20 * estimate(config(), workspace, CARD).seconds


def test_twice_the_steps_take_twice_the_time(workspace: Workspace) -> None:
    once, twice = (estimate(config(steps=steps), workspace, CARD).seconds for steps in (1000, 2000))
    assert twice == pytest.approx(2 * once)


def test_the_disk_holds_weights_and_optimizer_of_every_kept_checkpoint(workspace: Workspace) -> None:
    needed = estimate(config(keep_checkpoints=3), workspace, CARD).disk_bytes
    assert needed == 361_279_120 * 4 * 3 * 4
    assert "GB of disk" in estimate(config(), workspace, CARD).summary


def test_earlier_runs_of_this_machine_are_believed(workspace: Workspace) -> None:
    folder = workspace.new_run("earlier")
    write_run(folder, {"config": config().model_dump(mode="json")})
    recorder = Recorder(folder, lambda event: None)
    for step in range(1, 11):
        recorder(StepDone(step, step * 4, 0.1, 1e-5, 2.0))
    guess = estimate(config(), workspace, CARD)
    assert guess.measured
    assert guess.seconds == pytest.approx(2000)


def test_a_run_that_several_cards_shared_is_no_measure_for_one(workspace: Workspace) -> None:
    folder = workspace.new_run("shared")
    write_run(folder, {"config": config().model_dump(mode="json")})
    recorder = Recorder(folder, lambda event: None)
    recorder.note("started", 0, processes=2)
    for step in range(1, 11):
        recorder(StepDone(step, step * 4, 0.1, 1e-5, 2.0))
    assert not estimate(config(), workspace, CARD).measured


def test_a_damaged_run_does_not_hide_the_estimate(workspace: Workspace) -> None:
    folder = workspace.new_run("broken")
    (folder / "run.json").write_text("{", encoding="utf-8")
    assert estimate(config(), workspace, CARD).seconds > 0


def test_sizes_come_from_the_file_of_a_local_base(workspace: Workspace, tiny_base: Path) -> None:
    weights = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert denoiser_parameters(workspace, str(tiny_base)) == sum(weight.numel() for weight in weights.values())
