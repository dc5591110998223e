"""What is not finite changes no weight: the loss scale of fp16, skipped steps, and when a run ends because of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from engine.data.cache import TrainingCache
from engine.errors import UserError
from engine.jobs.control import Control
from engine.jobs.events import StepDone, StepSkipped
from engine.runs.run import Run
from engine.training import setup, step
from engine.training.job import build_trainer
from engine.training.loss_scale import LossScale
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, train

GOOD = LossScale.START / 2
"""A scale that held."""


@pytest.fixture
def fp16_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors can compute in fp16, though slowly; users are spared that."""
    monkeypatch.setattr(setup, "usable_precision", lambda wanted, device: (wanted, ""))


@pytest.fixture
def break_image(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the latents of one row NaN, as a VAE in half precision leaves them."""
    real = TrainingCache.latents

    def break_row(broken: int) -> None:
        def latents(self: TrainingCache, rows: Sequence[int], variants: Any = None) -> Any:
            mean, logvar = real(self, rows, variants)
            mean[[row == broken for row in rows]] = float("nan")
            return mean, logvar

        monkeypatch.setattr(TrainingCache, "latents", latents)

    return break_row


def calibrated() -> LossScale:
    """After one good step at GOOD."""
    scale = LossScale("fp16")
    assert scale.overflowed(1)
    scale.held()
    assert scale.value == GOOD
    return scale


def saved(scale: LossScale) -> LossScale:
    """The same after a resume."""
    again = LossScale("fp16")
    again.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    return again


def test_until_a_scale_has_held_it_is_halved_as_often_as_it_takes() -> None:
    scale = LossScale("fp16")
    while scale.overflowed(1):
        pass
    assert scale.value == LossScale.SMALLEST, "below 1 a scale only loses gradients"
    scale.skipped(1)
    assert scale.value == LossScale.START


def test_one_batch_that_overflows_at_every_try_leaves_no_trace_in_the_scale() -> None:
    scale = calibrated()
    assert [scale.overflowed(2) for _ in range(4)] == [True, True, True, False]
    assert scale.value == GOOD / 8
    assert saved(scale).value == GOOD, "a pause between two tries saves the scale that held"
    scale.skipped(2)
    assert scale.value == GOOD and saved(scale).skipped_steps == [2]


def test_a_batch_whose_loss_is_not_finite_is_computed_once(
    new_run: RunFactory, ready_workspace: Workspace, fp16_everywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scale would help it, and halving it for nothing would let gradients vanish."""
    run = new_run(**{"train.precision": "fp16"})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    real, calls = step.denoising_loss, list[float]()

    def loss(*arguments: Any) -> torch.Tensor:
        calls.append(trainer.state.loss_scale.value)
        return real(*arguments) * float("nan")

    monkeypatch.setattr(step, "denoising_loss", loss)
    assert step.train_step(trainer.state) == step.Skipped("loss")
    assert calls == [LossScale.START] and trainer.state.loss_scale.value == LossScale.START
    trainer.close()


def test_a_loss_that_is_not_finite_leaves_the_scale_alone() -> None:
    scale = calibrated()
    scale.skipped(2)
    assert scale.value == GOOD


def good_steps(scale: LossScale, count: int) -> None:
    for _ in range(count):
        scale.held()


def test_a_halved_scale_that_held_recovers_fast_and_grows_slowly_beyond() -> None:
    assert LossScale.RECOVER_AFTER <= 200 < 2000 <= LossScale.GROW_AFTER
    scale = calibrated()
    good_steps(scale, LossScale.RECOVER_AFTER - 1)
    assert scale.value == LossScale.START, "the first batch alone does not say how large a scale may be"
    assert scale.overflowed(2) and scale.value == GOOD, "but this one says so, too"
    assert scale.overflowed(2) and scale.overflowed(2)
    good_steps(scale, 2 * LossScale.RECOVER_AFTER)
    assert scale.value == GOOD
    good_steps(scale, LossScale.GROW_AFTER - 1)
    assert scale.value == GOOD and saved(scale).value == GOOD
    scale.held()
    assert scale.value == saved(scale).value == 2 * GOOD
    state = scale.state_dict()
    assert state is not None and state["scale"] == GOOD, "the doubled one has not held yet"
    assert scale.overflowed(3) and scale.value == GOOD


def test_a_larger_scale_that_fails_for_a_bad_batch_is_tried_again() -> None:
    scale = calibrated()
    good_steps(scale, LossScale.RECOVER_AFTER - 1)
    while scale.overflowed(2):
        pass
    scale.skipped(2)
    assert scale.value == LossScale.START and saved(scale).value == LossScale.START


def test_a_scale_that_is_too_large_for_every_batch_is_still_found() -> None:
    """Batch after batch is skipped, with more tries each time, so that the run does not end for a wrong scale."""
    scale, largest = LossScale("fp16"), GOOD / 2**7
    scale.load_state_dict({"scale": GOOD, "_growth_tracker": 5, "ceiling": GOOD, "any_held": True})
    number = 1
    while scale.value > largest:
        if not scale.overflowed(number):
            scale.skipped(number)
            number += 1
    scale.held()
    assert scale.skipped_steps == [1, 2] and scale.value == largest
    assert scale.too_many_skipped(number) == ""


@pytest.mark.parametrize("crushed", [2.0**-14, 2.0**-30, 2.0**8])
def test_a_scale_that_an_earlier_version_has_crushed_is_found_anew(crushed: float) -> None:
    scale = LossScale("fp16")
    scale.load_state_dict({"scale": crushed, "_growth_tracker": 0})
    assert scale.value == LossScale.START
    scale.load_state_dict({"scale": 2.0**20, "_growth_tracker": 7})
    assert scale.value == 2.0**20


def test_a_run_ends_after_5_skipped_steps_in_a_row_or_more_than_20_of_100() -> None:
    scale = LossScale("bf16")
    for number in range(11, 15):
        scale.skipped(number)
        assert not scale.too_many_skipped(number)
    assert saved(scale).skipped_steps == [11, 12, 13, 14]
    scale.skipped(15)
    assert scale.too_many_skipped(15).startswith("5 steps in a row") and scale.last_good(15) == 10
    scale.forget_skipped()
    for number in range(1000, 1080, 4):
        scale.skipped(number)
        assert not scale.too_many_skipped(number) and scale.last_good(number) == number - 1
    scale.skipped(1099)
    assert scale.too_many_skipped(1099).startswith("21 of the last 100")
    scale.skipped(1100)
    assert not LossScale("bf16").too_many_skipped(1100)
    assert scale.too_many_skipped(1103).startswith("21 of"), "1000 and 1001 have left the window, 1100 has come"
    assert scale.value == 1 and not scale.overflowed(1101)


def test_only_what_is_there_to_keep_is_saved() -> None:
    assert LossScale("bf16").state_dict() is None
    scale = LossScale("bf16")
    scale.skipped(3)
    assert scale.state_dict() == {"skipped": [3]}
    assert saved(scale).value == LossScale.START, "in fp16 from here on"


@pytest.mark.answers("A step was skipped, or the loss became NaN")
@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.long), "fp16"])
def test_an_image_whose_latents_are_nan_costs_its_steps_and_nothing_else(
    precision: str,
    new_run: RunFactory,
    ready_workspace: Workspace,
    fp16_everywhere: None,
    break_image: Callable[[int], None],
) -> None:
    settings: dict[str, Any] = {"train.precision": precision, "train.steps": 10 if precision == "fp32" else 5}
    straight = new_run(**settings)
    break_image(4)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed"
    first, *later = trained.of(StepSkipped)
    assert len(later) == (precision == "fp32"), "once in each epoch, which has five steps"
    taken, skipped = ({event.step for event in trained.of(kind)} for kind in (StepDone, StepSkipped))
    assert taken | skipped == set(range(1, settings["train.steps"] + 1)) and not taken & skipped
    assert len(first.images) == 2
    (line, *_) = [entry for entry in straight.metrics() if "skipped" in entry]
    assert line == {"step": first.step, "skipped": "loss", "images": list(first.images)}
    (warning, *_) = [words for words in trained.warnings if words.startswith(f"Step {first.step} was skipped")]
    assert "earlier skipped step" not in warning
    assert all(name in warning for name in first.images) and warning in "\n".join(straight.log_tail())
    state = json.loads((straight.checkpoints()[-1].folder / "training_state" / "state.json").read_text("utf-8"))
    assert state["scaler"]["skipped"] == sorted(skipped)
    if precision == "fp16":
        assert state["scaler"]["scale"] >= 2.0**10
        return

    # Paused and resumed around the skipped step. The broken image is in both skipped steps, before and after the pause.
    paused = new_run(**settings)
    assert train(ready_workspace, paused, at_step={first.step - 1: "pause"}).outcome == "paused"
    again = train(ready_workspace, paused, at_step={first.step + 1: "pause"})
    assert (again.outcome, again.of(StepSkipped)) == ("paused", [first])
    last = train(ready_workspace, paused)
    assert last.outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, paused.checkpoints()[-1].folder)
    twice = sorted(set(first.images) & set(later[0].images))
    assert twice and f"Also in an earlier skipped step: {', '.join(twice)}." in "".join(last.warnings)


@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_a_run_that_breaks_ends_at_its_last_good_state_and_can_go_on(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.steps": 7}
    straight, broken = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    real, calls = step.denoising_loss, {"count": 0}

    def breaks(*arguments: torch.Tensor) -> torch.Tensor:
        calls["count"] += 1
        return real(*arguments) * (float("nan") if calls["count"] > 2 else 1)

    with monkeypatch.context() as patched:
        patched.setattr(step, "denoising_loss", breaks)
        expected = "step 7: 5 steps in a row were skipped.*\n?.*The state of step 2 is good and saved.*\n?.*half the"
        with pytest.raises(UserError, match=expected):
            train(ready_workspace, broken)
    assert calls["count"] == 7, "each batch is tried once"
    assert (broken.last_step, Run(broken.folder).ending) == (2, "failed")
    assert train(ready_workspace, broken).outcome == "completed"
    assert_same_checkpoint(straight.checkpoints()[-1].folder, broken.checkpoints()[-1].folder)
