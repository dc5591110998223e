"""What a failed run offers can be done, and helps: a button in the window, a command on the command line."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.cli.main import EXIT_PROBLEM, main
from engine.errors import Offer, TrainingBroke, UserError
from engine.estimate.memory import predict_from
from engine.families.files import configs_at
from engine.runs.changes import allowed_changes, with_settings
from engine.runs.checkpoints import Checkpoint
from engine.runs.run import Run
from engine.training import step
from engine.training.offers import after_break, after_shortage, with_offers
from engine.training.state import TrainState
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory
from ui.page.context import AppContext
from ui.page.problems import problem_html


@pytest.fixture
def too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """If step 4 was taken with a learning rate above 6e-4, all later losses are NaN."""
    real, denoising_loss = step.train_step, step.denoising_loss

    def train_step(state: TrainState) -> torch.Tensor | step.Skipped | None:
        worn = state.run_folder / "worn"
        if state.step >= 4 and worn.exists():
            monkeypatch.setattr(step, "denoising_loss", lambda predicted, *_: predicted.sum() * math.nan)
        taken = real(state)
        monkeypatch.setattr(step, "denoising_loss", denoising_loss)
        if state.step == 3:
            worn.touch() if state.config.optim.learning_rate > 6e-4 else worn.unlink(missing_ok=True)
        return taken

    monkeypatch.setattr("engine.training.faults.train_step", train_step)


@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_a_run_that_broke_goes_on_with_half_the_learning_rate_from_before_it_broke(
    new_run: RunFactory, ready_workspace: Workspace, too_high: None
) -> None:
    context = AppContext(ready_workspace)
    run = new_run(**{"train.checkpoint_every": 3, "train.precision": "bf16", "train.steps": 9})
    context.resume_training(run.name)
    context.runner.wait()
    problem = context.view().problem
    assert problem is not None and "broke at step 9" in problem.what
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 4, 6], "6 has only skipped"
    half, finer = problem.offers
    assert (half.title, half.settings, half.from_step) == (
        "Resume with half the learning rate",
        {"optim.learning_rate": 5e-4},
        3,
    )
    assert (finer.title, finer.settings, finer.from_step) == ("Resume in fp32", {"train.precision": "fp32"}, 4)
    assert "learning rate 0.001 → 0.0005, from the checkpoint of step 3" in problem_html(problem)

    context.resume_training(half.run, half.settings, half.from_step)
    context.runner.wait()
    assert context.view().problem is None
    done = Run(run.folder)
    assert done.completed and done.config.optim.learning_rate == 5e-4
    assert (run.folder / "checkpoints" / "broken-step-000004").is_dir()


def test_the_command_line_names_the_commands(
    new_run: RunFactory, ready_workspace: Workspace, too_high: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(**{"train.checkpoint_every": 3, "train.steps": 9})
    assert main(["--workspace", str(ready_workspace.root), "resume", run.name]) == EXIT_PROBLEM
    printed = capsys.readouterr().err
    command = f"resume {run.name} --from-step 3 --set optim.learning_rate=0.0005"
    assert command in printed and "Resume in" not in printed, "there is no finer precision than fp32"
    assert main(["--workspace", str(ready_workspace.root), *command.split()]) == 0


def run_with(new_run: RunFactory, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], **settings: Any) -> Run:
    made = new_run(**settings)
    saved = [Checkpoint(made.folder, number, 0, False, True, {}) for number in steps]
    monkeypatch.setattr(Run, "checkpoints", lambda self: saved)
    return made


def test_in_fp16_another_precision_comes_first_the_fastest_that_the_card_has(
    new_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with(new_run, monkeypatch, (4,), **{"train.precision": "fp16"})
    card = torch.device("cuda")
    for has_bf16, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        first, half = after_break(run, 5, card)
        assert first.title == f"Resume in {precision}" and first.words == "from step 4"
        assert half.from_step == 0 and "from the start" in half.words
    assert len(list(after_break(run, 5, torch.device("cpu")))) == 1, "a processor computes fp16 as fp32"


def test_less_memory_is_offered_until_there_is_none_left(new_run: RunFactory) -> None:
    """The result stays the same but for rounding: the optimizer is not changed."""
    run = new_run(**{"train.precision": "fp16", "optim.ema_decay": 0.9, "train.batch_size": 4})
    base, offered, began = configs_at(run.config.model.base), [], run.config
    while offer := next(after_shortage(run, torch.device("cuda")), None):
        changed = allowed_changes(run.name, began, run.config, 1, offer.settings)
        before, run.config = run.config, with_settings(run.config, changed)
        assert predict_from(run.config, base).step < predict_from(before, base).step, "never one that saves nothing"
        offered.append(set(offer.settings))
    assert offered[0] == {"train.batch_size"} and len(offered) < 6
    assert set().union(*offered) - {"optim.ema_device"} == {
        "train.batch_size",
        "train.gradient_checkpointing",
        "train.base_storage",
        "optim.offload",
    }


@pytest.mark.answers("Out of memory")
def test_memory_that_ran_out_where_the_run_could_not_help_itself_is_offered_with_less(new_run: RunFactory) -> None:
    run = new_run()
    seen = with_offers(torch.OutOfMemoryError("CUDA out of memory"), run)
    assert seen is not None and "Resume with other settings" in seen.try_this
    assert [offer.title for offer in seen.offers] == ["Resume with less memory"]
    wrapped = UserError("a", "b", "c")
    wrapped.__cause__ = MemoryError()
    assert with_offers(wrapped, run) is wrapped and wrapped.offers == seen.offers
    assert with_offers(UserError("a", "b", "c"), run) is None
    assert with_offers(KeyError("x"), run) is None


def test_an_offer_is_a_command() -> None:
    offer = Offer("t", "a run", {"optim.offload": True, "train.precision": "bf16"}, 0)
    assert offer.arguments == [
        "resume", "a run", "--from-step", "0", "--set", "optim.offload=true", "--set", "train.precision=bf16"
    ]  # fmt: skip
    assert TrainingBroke(3, "a", "b", "c").step == 3 and replace(offer, from_step=None).arguments[2] == "--set"
