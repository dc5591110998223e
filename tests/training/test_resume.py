"""A paused and resumed run equals one that was never interrupted, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.jobs.events import Message, PhaseChanged, Progress, StepDone
from engine.jobs.runner import JobRunner
from engine.runs.run import Run
from engine.training.checkpoint import optimizer_to_tensors, tensors_to_optimizer
from engine.training.job import build_trainer, resume_training
from engine.training.loss_scale import LossScale
from engine.training.new_run import create_run
from engine.training.setup import resume_from
from engine.workspace.paths import APP_FOLDER, Workspace
from tests.compare_runs import assert_same_checkpoint, assert_same_run, tensors
from tests.short_runs import RunFactory, Trained, train

MODES = {
    "plain": {},
    "accumulation, EMA, Min-SNR, warm-up": {
        "train.accumulation": 2,
        "optim.ema_decay": 0.9,
        "objective.min_snr_gamma": 5.0,
        "optim.warmup_steps": 2,
        "optim.schedule": "cosine",
    },
    "two epochs, hidden prompts, cubic": {
        "train.batch_size": 4,
        "objective.prompt_dropout": 0.5,
        "objective.timestep_sampling": "cubic",
    },
    "bf16, accumulation, checkpointing": {
        "train.precision": "bf16",
        "train.accumulation": 2,
        "train.gradient_checkpointing": "both",
        "optim.ema_decay": 0.9,
    },
    "bf16, Control-LoRA, base not locked, Adafactor": {
        "train.precision": "bf16",
        "model.control_lora_rank": 4,
        "objective.sd_locked": False,
        "optim.optimizer": "adafactor",
    },
    "Adafactor, offset noise, only the middle, average in RAM": {
        "optim.optimizer": "adafactor",
        "objective.offset_noise": 0.1,
        "objective.only_mid_control": True,
        "optim.ema_decay": 0.9,
        "optim.ema_device": "cpu",
    },
    "buckets and random crops": {
        "data.dataset": "mixed",
        "data.resolution": 192,
        "data.buckets": True,
        "data.crop": "random",
        "train.accumulation": 2,
    },
    "buckets and smart crops": {
        "data.dataset": "mixed",
        "data.resolution": 192,
        "data.buckets": True,
        "data.crop": "smart",
    },
    "8-bit AdamW": {"optim.optimizer": "adamw8bit"},
    "bf16, master weights in two halves, EMA": {
        "train.precision": "bf16",
        "optim.master_weights": "split",
        "optim.ema_decay": 0.9,
    },
    "bf16, no master weights, Control-LoRA, Adafactor": {
        "train.precision": "bf16",
        "optim.master_weights": "none",
        "optim.optimizer": "adafactor",
        "model.control_lora_rank": 4,
    },
}


IMAGES = {
    "train.steps": 8,
    "train.checkpoint_every": 3,
    "validation.every": 4,
    "validation.pictures": 2,
    "validation.sampling_steps": 1,
    "validation.check_every": 2,
}


class Crash(BaseException):
    """What no part of the app foresees: the thread ends on the spot, with whatever was in memory."""


def train_until(workspace: Workspace, run: Run, how: str, kind: type, nth: int) -> None:
    """Train until the ``nth`` event of a kind: then Pause or Stop is pressed, or the thread crashes.

    Save now is pressed at the first event.
    """
    seen = 0

    def look(trained: Trained) -> None:
        nonlocal seen
        if len(trained.events) == 1:
            trained.control.save_now()
        if isinstance(trained.events[-1], kind):
            seen += 1
            if seen == nth:
                if how == "crash":
                    raise Crash
                getattr(trained.control, how)()

    # Cancelled while it was still preparing: there was no step to save.
    with contextlib.suppress(Crash, Cancelled):
        train(workspace, run, when={object: look})


FAST = ("accumulation, EMA, Min-SNR, warm-up",)


@pytest.mark.answers("Three seeds, three results")
@pytest.mark.parametrize(
    "mode", [mode if mode in FAST else pytest.param(mode, marks=pytest.mark.long) for mode in MODES]
)
def test_whatever_interrupts_a_run_it_ends_as_if_nothing_had(
    new_run: RunFactory, ready_workspace: Workspace, mode: str
) -> None:
    """Pauses, stops, Save now and crashes at random steps, and in the middle of images and of saving.

    bitsandbytes, which computes on processors from 0.50 on, comes with requirements-dev.txt where it has wheels.
    """
    if mode.startswith("8-bit"):
        pytest.importorskip("bitsandbytes", minversion="0.50")
    chance = random.Random(mode)
    straight, other = new_run(**IMAGES, **MODES[mode]), new_run(**IMAGES, **MODES[mode])
    train(ready_workspace, straight)
    for _ in range(3):
        how, kind = chance.choice(["pause", "stop", "crash"]), chance.choice([StepDone, StepDone, PhaseChanged])
        train_until(ready_workspace, other, how, kind, chance.randint(1, 4))
        if other.completed:
            break
    if not other.completed:
        assert train(ready_workspace, other).outcome == "completed"
    assert_same_run(straight, other)
    memory = {tensor.dtype for name, tensor in tensors(other.checkpoints()[-1].folder).items() if "optimizer" in name}
    assert (torch.uint8 in memory) == mode.startswith("8-bit"), "the nets are large enough for 8 bits"


# Where processes can be forked, test_kills.py goes on in another one again and again.
@pytest.mark.parametrize("mode", [pytest.param("plain", marks=[pytest.mark.long] if hasattr(os, "fork") else [])])
def test_it_goes_on_in_another_process_as_after_a_reboot(
    new_run: RunFactory, ready_workspace: Workspace, mode: str
) -> None:
    straight, paused = new_run(**MODES[mode]), new_run(**MODES[mode])
    assert train(ready_workspace, straight).outcome == "completed"
    first = train(ready_workspace, paused, at_step={3: "pause"})
    assert (first.outcome, paused.last_step) == ("paused", 3)
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from engine.jobs.control import Control\n"
        "from engine.runs.run import Run\n"
        "from engine.training.job import training_job\n"
        "from engine.workspace.paths import Workspace\n"
        "work = training_job(Workspace(sys.argv[1]), Run(sys.argv[2]))\n"
        "print(work(Control().token, lambda event: None))\n"
    )
    command = [sys.executable, "-c", code, str(ready_workspace.root), str(paused.folder)]
    result = subprocess.run(command, cwd=APP_FOLDER, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "completed"
    assert_same_run(straight, paused)


def test_images_that_a_pause_cut_off_are_made_on_resume(new_run: RunFactory, ready_workspace: Workspace) -> None:
    straight, other = new_run(**IMAGES), new_run(**IMAGES)
    train(ready_workspace, straight)
    assert train(ready_workspace, other, at_step={4: "pause"}).outcome == "paused"
    assert [record.step for record in other.previews()] == [0], "a pause does not wait for images"
    train(ready_workspace, other)
    assert_same_run(straight, other)


def test_images_that_were_asked_for_before_a_pause_are_made_on_resume(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    run = new_run(**IMAGES)
    assert train(ready_workspace, run, at_step={2: "preview_now pause"}).outcome == "paused"
    assert [record.step for record in run.previews()] == [0]
    assert train(ready_workspace, run, at_step={3: "pause"}).outcome == "paused"
    assert [record.step for record in run.previews()] == [0, 2]
    train(ready_workspace, run)
    assert [record.step for record in run.previews()] == [0, 2, 4, 8], "once, not at each resume"


def test_the_loss_scale_of_fp16_travels_with_the_checkpoint(new_run: RunFactory, ready_workspace: Workspace) -> None:
    """On a processor fp16 becomes fp32, whose scale does not move, so it is moved by hand."""
    run = new_run()
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    state.loss_scale = LossScale("fp16")
    assert state.loss_scale.overflowed(1)
    for _ in range(37):
        state.loss_scale.held()
    wanted = state.loss_scale.state_dict()
    assert wanted == {"scale": 2.0**15, "_growth_tracker": 37, "ceiling": 2.0**16, "any_held": True}
    state.start_at(2)
    trainer.save()
    trainer.close()
    again = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    again.state.loss_scale = LossScale("fp16")
    resume_from(again.state, run.checkpoints()[-1])
    assert again.state.loss_scale.state_dict() == wanted
    again.close()


def test_a_nested_state_of_an_optimizer_comes_back_as_it_was() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    state = {"step": 3, "quantised": {"state1": torch.arange(3, dtype=torch.uint8), "deep": {"scale": 0.5}}}
    optimizer.load_state_dict({"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]})
    kept, plain = optimizer_to_tensors(optimizer)
    json.dumps(plain)  # goes into state.json
    fresh = torch.optim.SGD([weight], lr=0.1)
    tensors_to_optimizer(fresh, kept, plain)
    back = fresh.state_dict()["state"][0]
    shared = torch.arange(2.0)
    optimizer.state[weight] = {"map1": shared, "map2": shared}
    kept, _ = optimizer_to_tensors(optimizer)
    assert kept["0.map1"].data_ptr() != kept["0.map2"].data_ptr(), "safetensors takes no tensors that share memory"
    assert back["step"] == 3 and back["quantised"]["deep"] == {"scale": 0.5}
    assert torch.equal(back["quantised"]["state1"].to(torch.uint8), state["quantised"]["state1"])


def test_what_was_loaded_lies_in_memory_like_what_was_made(new_run: RunFactory, ready_workspace: Workspace) -> None:
    """A checkpoint's file is not in use once it was read, and no kernel adds up in another order than before it."""
    run = new_run(**{"optim.ema_decay": 0.9})
    train(ready_workspace, run, at_step={2: "pause"})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state.optimizer.state_dict()["state"].values()
    held = [*trainer.state.trainable.parameters(), *trainer.state.ema.shadow_params]
    held += [value for entries in state for value in entries.values() if isinstance(value, torch.Tensor)]
    assert len(held) > 300 and {tensor.data_ptr() % 64 for tensor in held} == {0}
    if sys.platform == "linux":
        assert str(run.folder) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    trainer.close()


@pytest.mark.parametrize("kept", ["split", pytest.param("none", marks=pytest.mark.long)])
def test_compact_master_weights_resume_bit_for_bit(new_run: RunFactory, ready_workspace: Workspace, kept: str) -> None:
    settings = {"train.precision": "bf16", "optim.master_weights": kept, "optim.ema_decay": 0.9, "train.steps": 4}
    straight, paused = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    train(ready_workspace, paused, at_step={2: "pause"})
    train(ready_workspace, paused)
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)
    saved = tensors(straight.checkpoints()[-1].folder / "controlnet")
    rounded = [torch.equal(weight, weight.bfloat16().float()) for weight in saved.values() if weight.any()]
    assert all(rounded) if kept == "none" else not any(rounded)


@pytest.mark.answers("Can I pause? Where does it resume from?")
def test_every_step_can_be_the_last_before_a_pause(new_run: RunFactory, ready_workspace: Workspace) -> None:
    straight, paused = new_run(), new_run()
    train(ready_workspace, straight)
    for step in range(1, 6):
        assert train(ready_workspace, paused, at_step={step: "pause"}).outcome == "paused"
        assert paused.last_step == step
    assert train(ready_workspace, paused).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)


def test_a_run_that_was_moved_resumes(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    train(ready_workspace, run, at_step={2: "pause"})
    moved = run.folder.with_name("moved to another disk")
    run.folder.rename(moved)
    trained = train(ready_workspace, Run(moved))
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(StepDone)] == [3, 4, 5, 6]


def test_a_whole_workspace_that_was_moved_resumes_with_its_base_and_its_images(
    workspace: Workspace, make_config: Any, paired_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """Images that the app keeps itself and a base of the user's lie in the workspace: all paths change."""
    shutil.copytree(tiny_base, workspace.models / "mine")
    kept = workspace.datasets / "pairs" / "pictures"
    shutil.copytree(paired_folder, kept)
    Dataset.create(workspace, "pairs", scan_folder(kept))
    config = make_config(**{"model.base": "mine"})
    straight, other = create_run(workspace, config, {}), create_run(workspace, config, {})
    train(workspace, straight)
    train(workspace, other, at_step={2: "pause"})
    workspace.root.rename(tmp_path / "another disk")
    there = Workspace(tmp_path / "another disk")
    straight, other = (Run(there.runs / run.folder.name) for run in (straight, other))
    trained = train(there, other)
    assert trained.outcome == "completed"
    assert trained.warnings == [], "nothing has changed but the place"
    assert not [event for event in trained.of(Progress) if event.label == "Encoding images"], "the cache holds"
    assert_same_run(straight, other)


def test_images_that_were_moved_are_asked_for_and_found_again(
    workspace: Workspace, make_config: Any, paired_folder: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(paired_folder, here)
    Dataset.create(workspace, "pairs", scan_folder(here))
    run = create_run(workspace, make_config(), {})
    train(workspace, run, at_step={2: "pause"})
    here.rename(there)
    runner = JobRunner()
    with pytest.raises(UserError, match="which is no longer there.*under the same name, pairs"):
        resume_training(runner, workspace, run.folder)
    with pytest.raises(UserError, match="There is already a dataset named pairs"):
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        shutil.copy(there / "images" / "00.png", stranger / "other.png")
        Dataset.create(workspace, "pairs", scan_folder(stranger))
    Dataset.create(workspace, "pairs", scan_folder(there))
    trained = train(workspace, Run(run.folder))
    assert trained.outcome == "completed"
    assert not [event for event in trained.of(Message) if "changed" in event.text]
