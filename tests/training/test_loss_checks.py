"""Checks between two steps: what they measure, what they cost, and that the run does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config.presets import resolve
from engine.config.validation import CHECK_SHARE
from engine.data.dataset import Dataset
from engine.demo.sets import demo_preset, make_demo_set
from engine.evaluation.verdict import Verdict
from engine.jobs.control import Control
from engine.jobs.events import Checked, CheckpointSaved, Message, StepDone
from engine.nets.master_weights import MasterWeightSync
from engine.runs.run import Run, write_run
from engine.training import fixed_losses
from engine.training.job import build_trainer
from engine.training.loss_checks import Schedule
from engine.training.new_run import create_run
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, losses
from tests.short_runs import RunFactory, train
from tests.training.test_oom import failing

EACH_STEP = {"validation.check_every": 1}
BOTH_ENDS = {"validation.check_every": 50}
MODES = {
    "average": {"optim.ema_decay": 0.9},
    "bf16, several sizes": {
        "train.precision": "bf16",
        "data.dataset": "mixed",
        "data.resolution": 192,
        "data.buckets": True,
        "data.crop": "random",
    },
}


def at_every_step(schedule: Schedule, step: int, now: float) -> bool:
    """In place of ``Schedule.due``: whatever checks took before. Preview images are not asked for."""
    return schedule.every > 0


@pytest.fixture
def said() -> list[Any]:
    """The events of ``trainer``."""
    return []


@pytest.fixture
def trainer(new_run: RunFactory, ready_workspace: Workspace, said: list[Any]) -> Trainer:
    run = new_run(**{"data.held_out": 4}, **BOTH_ENDS)
    made = build_trainer(ready_workspace, run, Control().token, said.append)
    said.clear()
    return made


@pytest.mark.parametrize(
    "mode", [mode if mode == "average" else pytest.param(mode, marks=pytest.mark.long) for mode in MODES]
)
def test_a_run_with_checks_ends_with_the_same_weights(
    new_run: RunFactory, ready_workspace: Workspace, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "due", at_every_step)
    checked, quiet = (new_run(**{**MODES[mode], "validation.check_every": every}) for every in (1, 0))
    trained, other = train(ready_workspace, checked), train(ready_workspace, quiet)
    assert [event.step for event in trained.of(Checked)] == [0, 1, 2, 3, 4, 5, 6]
    assert other.of(Checked) == []
    assert_same_checkpoint(checked.checkpoints()[-1].folder, quiet.checkpoints()[-1].folder)
    assert losses(checked) == losses(quiet)


def test_the_random_state_and_the_mode_stay_as_they_were(trainer: Trainer) -> None:
    before, kept = torch.get_rng_state(), trainer.state.trainable.master.training
    assert trainer.hooks.loss_checks.check_if_due(always=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.state.trainable.master.training is kept is True
    assert all(parameter.grad is None for parameter in trainer.state.trainable.master.parameters())
    trainer.close()


def test_a_new_net_has_no_gain_and_one_that_listens_has(trainer: Trainer) -> None:
    """A new net adds nothing to the base. Loud outputs make the answer depend on the map, better or worse."""
    held_out = fixed_losses.fix(trainer.state, range(8, 12))
    new = fixed_losses.check(trainer.state, held_out, held_out, 4)
    assert (new.gain, new.share, new.share_error, new.training_share) == (0.0, 0.0, 0.0, 0.0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in trainer.state.trainable.master.named_parameters():
            if name.startswith(("controlnet_down_blocks", "controlnet_cond_embedding.conv_out")):
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    loud = fixed_losses.check(trainer.state, held_out, held_out, 4)
    assert (loud.held_out_loss, loud.share) == (loud.training_loss, loud.training_share)
    assert min(abs(loud.gain), abs(loud.share), loud.share_error) > 1e-6
    assert fixed_losses.event(trainer.state, loud, held_out, 1.0).memory_gib > 0
    trainer.close()


def test_a_pair_whose_latents_are_nan_is_left_out_and_all_broken_ones_are_seen(
    trainer: Trainer, said: list[Any]
) -> None:
    checks = trainer.hooks.loss_checks
    held_out, trained = (fixed_losses.fix(trainer.state, range(first, first + 4)) for first in (8, 0))
    held_out[0].latents[1] = float("nan")
    rest = fixed_losses.check(trainer.state, held_out, trained, 4)
    assert rest.finite and rest.left_out == 1
    checks.losses.fixed = (held_out, trained)
    assert checks.check_if_due(always=True) and checks.check_if_due(always=True)
    assert [event.level for event in said if isinstance(event, Message)] == ["warning"], "once"
    assert len([event for event in said if isinstance(event, Checked)]) == 2
    held_out[0].latents[:] = float("nan")
    assert not fixed_losses.check(trainer.state, held_out, trained, 4).finite
    trainer.close()


def test_the_same_net_gets_the_same_figures_whatever_fits_in_memory(trainer: Trainer) -> None:
    held_out = fixed_losses.fix(trainer.state, range(8, 12))
    together, alone = (fixed_losses.losses(trainer.state, held_out, False, at_once) for at_once in (4, 1))
    assert together == pytest.approx(alone, rel=1e-5)
    assert len(together) == 4
    trainer.close()


def test_maps_are_swapped_and_how_much_they_differ_is_known(trainer: Trainer) -> None:
    (group,) = fixed_losses.fix(trainer.state, range(8, 12))
    assert (group.swapped[1:] == group.maps[:-1]).all()
    assert fixed_losses.difference([group]) > 0.01
    assert 0 < fixed_losses.level([group]) < 0.5, "white outlines on black"
    group.maps[:] = group.swapped[:] = 255
    assert (fixed_losses.difference([group]), fixed_losses.level([group])) == (0, 1)
    trainer.close()


def test_checks_wait_until_they_cost_little() -> None:
    pace = Schedule(50)
    assert pace.due(0, 0.0)
    pace.took(0.0, 3.0)
    assert not pace.due(50, 3.0 + 0.9 * 3.0 / CHECK_SHARE)
    assert pace.due(100, 3.0 + 3.0 / CHECK_SHARE)
    assert not pace.due(101, 1e9), "only at round steps"
    assert not Schedule(0).due(0, 0.0)


def test_the_curve_survives_a_pause(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**BOTH_ENDS)
    train(ready_workspace, run, at_step={3: "pause"})
    trained = train(ready_workspace, run)
    history = Run(run.folder).history()
    assert [check.step for check in history.checks] == [0, 6]
    assert history.checks[-1] == trained.of(Checked)[-1]
    assert history.kept == (3, 6)


def test_memory_that_runs_out_is_met_with_one_pair_at_a_time(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = fixed_losses.check, []

    def tight(a: TrainState, b: list, c: list, at_once: int) -> tuple:
        seen.append(at_once)
        if at_once > 1:
            raise torch.OutOfMemoryError("out of memory")
        return real(a, b, c, at_once)

    monkeypatch.setattr(fixed_losses, "check", tight)
    assert trainer.hooks.loss_checks.check_if_due(always=True)
    assert trainer.hooks.loss_checks.check_if_due(always=True)
    assert seen == [2, 1, 1]
    trainer.close()


def test_a_check_that_does_not_fit_is_left_out_and_the_next_one_is_made(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "due", at_every_step)
    calm, short = (new_run(**EACH_STEP, **{"train.steps": 3}) for _ in range(2))
    train(ready_workspace, calm)
    monkeypatch.setattr(fixed_losses, "losses", failing(fixed_losses.losses, 2, 1))
    trained = train(ready_workspace, short)
    assert trained.outcome == "completed"
    assert [event.step for event in trained.of(Checked)] == [1, 2, 3]
    assert trained.warnings == ["The check of step 0 was skipped: memory ran out even for one pair at a time."]
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)


def test_after_three_checks_in_a_row_that_do_not_fit_no_more_are_tried(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "due", at_every_step)
    monkeypatch.setattr(fixed_losses, "losses", failing(fixed_losses.losses, 10_000))
    trained = train(ready_workspace, new_run(**EACH_STEP, **{"train.steps": 3}))
    assert trained.outcome == "completed" and trained.of(Checked) == []
    assert [text.split(":")[0] for text in trained.warnings] == [
        f"The check of step {step} was skipped" for step in (0, 1, 2)
    ]
    assert trained.warnings[-1].endswith("3 in a row were skipped, and this run is no longer checked.")


def test_pairs_that_do_not_fit_when_they_are_read_are_read_again(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_losses, "fix", failing(fixed_losses.fix, 1))
    trained = train(ready_workspace, new_run(**{"train.steps": 1}, **BOTH_ENDS))
    assert [event.step for event in trained.of(Checked)] == [0, 1] and trained.warnings == []


def test_weights_that_could_not_be_put_back_after_a_check_are_before_the_next_step(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check computes with the average; memory runs out whenever the copies are to be the net's own again."""
    settings = {"train.steps": 3, "optim.offload": True, "optim.ema_decay": 0.9, "validation.check_every": 2}
    calm, short = new_run(**settings), new_run(**settings)
    train(ready_workspace, calm)
    real, calls = MasterWeightSync.refresh, []

    def refresh(nets: MasterWeightSync) -> None:
        calls.append(nets.stale)
        if nets.stale and 2 <= calls.count(True) <= 3:  # after the check of step 2, and after its second try
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(nets)

    monkeypatch.setattr(MasterWeightSync, "refresh", refresh)
    monkeypatch.setattr(Schedule, "due", lambda self, step, now: step == 2)
    trained = train(ready_workspace, short)
    assert trained.outcome == "completed" and calls.count(True) > 3
    assert [text.split(":")[0] for text in trained.warnings] == ["The check of step 2 was skipped"]
    assert_same_checkpoint(calm.checkpoints()[-1].folder, short.checkpoints()[-1].folder)


def test_a_fault_in_a_check_does_not_end_the_training(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the scales are broken")

    monkeypatch.setattr(fixed_losses, "check", broken)
    trained = train(ready_workspace, new_run(**EACH_STEP))
    assert trained.outcome == "completed"
    assert sum("scales are broken" in message.text for message in trained.of(Message)) == 1


def test_a_run_keeps_the_pairs_that_it_began_to_hold_out(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    train(ready_workspace, run, at_step={2: "pause"})
    keys = Run(run.folder).held_out
    assert keys is not None and len(keys) == 2
    run.about["held_out"] = keys[::-1]
    write_run(run.folder, run.about)
    trainer = build_trainer(ready_workspace, Run(run.folder), Control().token, lambda event: None)
    assert [sample.key for sample in trainer.state.held_out] == keys[::-1]
    trainer.close()


def test_the_pairs_can_be_drawn_at_random(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"data.held_out_choice": "random", "train.steps": 1})
    train(ready_workspace, run)
    drawn = Dataset.open(ready_workspace.dataset_folder("pairs")).held_out(2)
    assert Run(run.folder).held_out == [sample.key for sample in drawn.held_out]


def test_a_run_of_an_earlier_version_keeps_its_draw(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    train(ready_workspace, run, at_step={2: "pause"})
    del run.about["held_out"]
    write_run(run.folder, run.about)
    trainer = build_trainer(ready_workspace, Run(run.folder), Control().token, lambda event: None)
    assert trainer.state.held_out == trainer.state.dataset.held_out(2).held_out
    assert Run(run.folder).held_out is None
    trainer.close()


@pytest.mark.parametrize(
    ("name", "first", "ended", "words"),
    [("rest", 60, 16, "Flat since step"), pytest.param("few", 4, 32, "Overfitting since step", marks=pytest.mark.long)],
)
def test_a_run_whose_figures_no_longer_improve_ends_by_itself(
    new_run: RunFactory,
    ready_workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    first: int,
    ended: int,
    words: str,
) -> None:
    """The figures of recorded runs from their ``first`` check on, one a step, judged by the rules themselves."""
    figures = iter(recorded(name)[first:])
    monkeypatch.setattr(Schedule, "due", at_every_step)
    monkeypatch.setattr(fixed_losses, "check", lambda *_: next(figures))
    run = new_run(**{"validation.stop_when_flat": True, "train.steps": 40, "train.batch_size": 1}, **EACH_STEP)
    trained = train(ready_workspace, run)
    assert trained.outcome == "stopped"
    assert trained.of(StepDone)[-1].step == trained.of(CheckpointSaved)[-1].step == run.checkpoints()[-1].step == ended
    (text,) = [message.text for message in trained.of(Message) if "ends by itself" in message.text]
    assert words in text


def recorded(name: str) -> list[fixed_losses.Figures]:
    """What the checks of a recorded run have found."""
    text = (Path(__file__).parents[1] / "evaluation" / "curves" / f"{name}.json").read_text(encoding="utf-8")
    return [
        fixed_losses.Figures(
            one["held_out_loss"],
            one["training_loss"],
            one["control_gain"],
            one["gain_share"],
            one["share_error"],
            one["training_share"],
        )
        for one in json.loads(text)["checks"]
    ]


@pytest.mark.long
def test_a_real_run_that_goes_on_from_a_finished_net_at_a_tiny_rate_is_flat_and_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the bundled base, checked every 10 steps whatever it costs; nothing else is replaced."""
    workspace = Workspace(tmp_path / "workspace")
    dataset = make_demo_set(workspace, "circles", 200)
    monkeypatch.setattr("engine.config.validation.CHECK_SHARE", 1.0)

    def run(name: str, **more: dict[str, Any]) -> Run:
        asked: dict[str, Any] = {
            "name": name,
            "data": {"dataset": dataset.name, "resolution": 64, "held_out": 16},
            "train": {"steps": 240, "checkpoint_every": 1000},
            "validation": {"every": 0, "check_every": 10},
        }
        return create_run(workspace, resolve(("demo", demo_preset().values), ("test", asked), ("more", more))[0], {})

    first = run("first")
    assert train(workspace, first).outcome == "completed"
    net = first.checkpoints()[-1].folder / "controlnet"
    again = run(
        "again", model={"controlnet": str(net)}, optim={"learning_rate": 1e-7}, validation={"stop_when_flat": True}
    )
    trained = train(workspace, again)
    texts = [message.text for message in trained.of(Message) if "ends by itself" in message.text]
    assert trained.outcome == "stopped" and len(texts) == 1 and "Flat since step" in texts[0]
    assert trained.of(StepDone)[-1].step == again.checkpoints()[-1].step < 240


def test_the_best_checkpoint_is_never_removed(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Verdict("improving", "Usable.", best=2)
    monkeypatch.setattr("engine.training.loss_checks.judge_run", lambda *_, **__: best)
    run = new_run(**{"train.checkpoint_every": 1, "train.keep_checkpoints": 2}, **BOTH_ENDS)
    trained = train(ready_workspace, run)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 5, 6]
    assert trained.of(CheckpointSaved)[-1].kept == (2, 5, 6)
