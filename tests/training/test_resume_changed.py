"""A run that is resumed with other settings: it keeps its course, and what interrupts it then changes nothing."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from engine.cli.main import EXIT_PROBLEM, main
from engine.errors import UserError
from engine.jobs.events import Message, StepDone
from engine.jobs.runner import JobRunner
from engine.runs.cleanup import trim
from engine.runs.run import Run
from engine.training.job import change_run, resume_training
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run, tensors
from tests.short_runs import RunFactory, train

COURSE = {
    "optim.learning_rate": 5e-4,
    "train.steps": 5,
    "train.precision": "bf16",
    "optim.master_weights": "split",
    "train.batch_size": 1,
    "train.gradient_checkpointing": "both",
}
MEMORY = {
    "optim.optimizer": "adafactor",
    "optim.ema_device": "cpu",
    "optim.offload": True,
    "train.base_storage": "fp8",
    "train.steps": 5,
}
"""With another optimizer, whose state begins anew."""


@pytest.mark.parametrize("changed", [COURSE, pytest.param(MEMORY, marks=pytest.mark.long)], ids=["course", "memory"])
@pytest.mark.answers("Can I change settings and resume? Can a finished run go on?")
def test_changed_interrupted_and_resumed_again_it_equals_one_that_was_not_interrupted(
    new_run: RunFactory, ready_workspace: Workspace, changed: dict[str, Any]
) -> None:
    settings = {"train.steps": 4, "optim.schedule": "cosine", "optim.warmup_steps": 1, "optim.ema_decay": 0.9}
    straight = new_run(**settings)
    train(ready_workspace, straight, at_step={2: "pause"})
    other = Run(shutil.copytree(straight.folder, straight.folder.with_name("other")))
    first = train(ready_workspace, change_run(straight, changed))
    train(ready_workspace, change_run(other, changed), at_step={3: "pause"})
    assert train(ready_workspace, Run(other.folder)).outcome == "completed"
    assert_same_run(straight, other)

    peak = changed.get("optim.learning_rate", 1e-3)

    def cosine(step: int) -> float:
        return float(peak * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - 1) / 4, dtype=torch.float64))))

    rates = {event.step: event.learning_rate for event in first.of(StepDone)}
    assert rates == pytest.approx({step + 1: cosine(step) for step in range(2, 5)}), "of the new total, without warm-up"
    about = Run(straight.folder).about
    assert about["config"]["optim"]["learning_rate"] == 1e-3 and about["config"]["train"]["steps"] == 4, "as it began"
    steps = {"step": 2, "setting": "train.steps", "from": 4, "to": 5, "fallbacks": 0}
    assert steps in about["changes"] and len(about["changes"]) == len(changed) + ("train.batch_size" in changed)


def test_another_learning_rate_keeps_the_optimizers_state(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    train(ready_workspace, run, at_step={2: "pause"})
    moments = {k: v for k, v in tensors(run.checkpoints()[-1].folder).items() if "exp_avg" in k}
    changed = train(ready_workspace, change_run(run, {"optim.learning_rate": 1e-9}), at_step={3: "pause"})
    assert not changed.warnings
    assert "Settings changed from step 2: learning rate 0.001 → 1e-09." in [m.text for m in changed.of(Message)]
    after = {k: v for k, v in tensors(run.checkpoints()[-1].folder).items() if k in moments}
    squares = [name for name in moments if name.endswith("exp_avg_sq") and moments[name].any()]
    assert squares and all(bool((after[name] >= 0.99 * moments[name]).all()) for name in squares), "0.999 of it stays"


def test_a_finished_run_goes_on_for_more_steps_from_the_command_line(
    new_run: RunFactory, ready_workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = new_run(**{"train.steps": 5}), new_run(**{"train.steps": 3})
    train(ready_workspace, long)
    train(ready_workspace, short)
    start = ["--workspace", str(ready_workspace.root)]
    assert main([*start, "resume", short.name, "--set", "train.seed=1"]) == EXIT_PROBLEM
    assert "order of the images" in capsys.readouterr().err
    assert main([*start, "resume", short.name]) == EXIT_PROBLEM
    said = capsys.readouterr().err
    assert "is complete" in said and f"(resume {short.name} --set train.steps=6)" in said, "how to ask for more steps"
    assert main([*start, "resume", short.name, "--set", "train.steps=5"]) == 0
    assert_same_run(long, Run(short.folder))

    assert main([*start, "resume", short.name, "--from-step", "4"]) == EXIT_PROBLEM
    assert "Choose one of these steps: 0, 3, 5." in capsys.readouterr().err
    for name in ("previews/step-000003", "previews/step-000005", "evaluation/full-000005"):
        (short.folder / name).mkdir(parents=True)
    assert main([*start, "resume", short.name, "--from-step", "3"]) == 0
    made = {path.relative_to(short.folder).as_posix() for path in short.folder.glob("*/*-00*")}
    assert {"previews/step-000003", "previews/aside-step-000005", "evaluation/aside-full-000005"} <= made
    assert (short.folder / "checkpoints" / "broken-step-000005").is_dir(), "set aside, not deleted"
    assert_same_run(long, Run(short.folder))

    assert main([*start, "train", "--from-run", short.name, "--set", "train.steps=1"]) == 0
    new = Run(max(ready_workspace.run_folders(), key=lambda folder: (folder / "metrics.jsonl").stat().st_mtime_ns))
    assert new.last_step == 1 and new.origins["optim.learning_rate"] == f"run {short.name}"
    assert new.config.model_dump(exclude={"train"}) == short.config.model_dump(exclude={"train"})


def test_a_run_without_anything_left_to_do_or_to_resume_from_says_what_to_do(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    run, runner = new_run(**{"train.steps": 1}), JobRunner()
    train(ready_workspace, run)
    with pytest.raises(UserError, match=r"is complete.*Give it more steps.*train\.steps=2"):
        resume_training(runner, ready_workspace, run.folder)
    with pytest.raises(UserError, match="is complete"):
        resume_training(runner, ready_workspace, run.folder, {"optim.learning_rate": 1e-5})
    assert "changes" not in Run(run.folder).about, "refused as a whole"
    trim(run.folder, keep=0)
    with pytest.raises(UserError, match="no training state"):
        resume_training(runner, ready_workspace, run.folder, {"train.steps": 3})
