"""A paused and resumed run equals one that was never interrupted, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.jobs.events import StepDone
from engine.runs import Run
from engine.workspace import APP_FOLDER, Workspace

from .conftest import RunFactory, Worker

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
}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, average, optimizer."""
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_checkpoint(first: Path, second: Path) -> None:
    one, two = tensors(first), tensors(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert different == []
    states = [json.loads((f / "training_state" / "state.json").read_text(encoding="utf-8")) for f in (first, second)]
    assert states[0] == states[1]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in run.metrics() if "loss" in entry]


@pytest.mark.parametrize("overrides", MODES.values(), ids=MODES.keys())
def test_three_steps_a_pause_and_three_more_equal_six(
    new_run: RunFactory, ready_workspace: Workspace, overrides: dict
) -> None:
    straight, paused = new_run(**overrides), new_run(**overrides)
    assert Worker(ready_workspace, straight).outcome == "completed"

    first = Worker(ready_workspace, paused, at_step={3: "pause"})
    assert first.outcome == "paused"
    assert paused.last_step == 3
    # A new process, as after a reboot.
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from engine.jobs.control import Control\n"
        "from engine.runs import Run\n"
        "from engine.training.run import training_job\n"
        "from engine.workspace import Workspace\n"
        "work = training_job(Workspace(sys.argv[1]), Run(sys.argv[2]))\n"
        "print(work(Control().token, lambda event: None))\n"
    )
    command = [sys.executable, "-c", code, str(ready_workspace.root), str(paused.folder)]
    result = subprocess.run(command, cwd=APP_FOLDER, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "completed"

    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)
    assert losses(straight) == losses(paused)
    assert [step for step, _ in losses(paused)] == [1, 2, 3, 4, 5, 6]


def test_every_step_can_be_the_last_before_a_pause(new_run: RunFactory, ready_workspace: Workspace) -> None:
    straight, paused = new_run(), new_run()
    Worker(ready_workspace, straight)
    for step in range(1, 6):
        assert Worker(ready_workspace, paused, at_step={step: "pause"}).outcome == "paused"
        assert paused.last_step == step
    assert Worker(ready_workspace, paused).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)


def test_a_run_that_was_moved_resumes(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    Worker(ready_workspace, run, at_step={2: "pause"})
    moved = run.folder.with_name("moved to another disk")
    run.folder.rename(moved)
    worker = Worker(ready_workspace, Run(moved))
    assert worker.outcome == "completed"
    assert [event.step for event in worker.of(StepDone)] == [3, 4, 5, 6]
