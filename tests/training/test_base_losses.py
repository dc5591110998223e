"""Loss checks of runs that teach the base: gain on held-out images, drift on other captions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.jobs.events import BaseChecked, Checked
from engine.runs.run import Run
from engine.training import base_losses
from engine.training.loss_checks import Schedule
from engine.workspace.paths import Workspace
from tests.compare_runs import checks
from tests.short_runs import train
from tests.training.test_lora import images_only, run_of  # noqa: F401


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a check takes."""
    monkeypatch.setattr(Schedule, "due", lambda self, step, now: bool(self.every) and step % self.every == 0)


SHORT = {"check_every": 2, "sampling_steps": 2, "other_captions": "a circle\n\na square \na circle"}


@pytest.mark.parametrize(
    "tuning",
    [{"what": "lora", "rank": 4}, pytest.param({"what": "base", "rank": 4}, marks=pytest.mark.long)],
    ids=["LoRA", "whole base"],
)
def test_gain_and_drift_begin_at_zero_and_a_resumed_run_measures_the_same(
    images_only: Workspace,  # noqa: F811
    tiny_base: Path,
    tuning: dict[str, object],
) -> None:
    straight, paused = (run_of(images_only, tiny_base, tuning=tuning, validation=SHORT) for _ in range(2))
    trained = train(images_only, straight)
    assert trained.of(Checked) == [] and trained.warnings == []
    first, *later = trained.of(BaseChecked)
    assert [check.step for check in (first, *later)] == [0, 2, 4]
    assert (first.gain, first.gain_error, first.training_gain, first.drift) == (0, 0, 0, 0)
    assert later[0].gain != 0 and 0 < later[0].drift < later[1].drift
    share = 1 - later[1].held_out_loss / first.held_out_loss
    assert later[1].gain == pytest.approx(share, rel=0.2), "of a single held-out image, at several noise levels"
    train(images_only, paused, {2: "pause"})
    train(images_only, Run(paused.folder))
    assert checks(Run(paused.folder)) == checks(straight) and len(checks(straight)) == 3
    assert Run(paused.folder).history().base_checks[-1].drift == later[1].drift


def test_the_training_goes_on_without_the_note_of_the_untrained_base(
    images_only: Workspace,  # noqa: F811
    tiny_base: Path,
) -> None:
    run = run_of(images_only, tiny_base, validation=SHORT)
    train(images_only, run, {2: "pause"})
    (run.folder / base_losses.FILE).unlink()
    resumed = train(images_only, Run(run.folder))
    assert resumed.outcome == "completed" and resumed.of(BaseChecked) == []
    (warning,) = resumed.warnings
    assert "Gain and drift are not measured any more" in warning


def test_drift_is_the_change_of_the_predictions_as_a_share_of_the_bases_loss(
    images_only: Workspace,  # noqa: F811
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prediction that is wrong by as much again as the base's has drifted by 100 %."""
    real = base_losses.predict

    def near(*given: object) -> tuple[torch.Tensor, torch.Tensor]:  # the tiny base's own loss is about 1
        predicted, target = real(*given)  # type: ignore[arg-type]
        return target + (predicted - target) / 2, target

    def farther(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
        predicted, target = near(*given)
        return predicted + (predicted - target), target

    def after_first(trained: object) -> None:
        monkeypatch.setattr(base_losses, "predict", farther)

    monkeypatch.setattr(base_losses, "predict", near)
    run = run_of(images_only, tiny_base, validation=SHORT | {"check_every": 1}, train={"steps": 1})
    _, check = train(images_only, run, when={BaseChecked: after_first}).of(BaseChecked)
    assert check.drift == pytest.approx(1, rel=0.1) and check.gain == pytest.approx(-3, rel=0.1)
