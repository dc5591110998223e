"""Odd weather, each fault injected: what can be saved is saved, and the words name the cause and what is left."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import DataGone, UserError
from engine.jobs.events import Message, StepDone
from engine.jobs.runner import JobRunner
from engine.runs.run import Run
from engine.training import failure, faults, hooks, trainer
from engine.training.job import resume_training
from engine.training.new_run import create_run, missing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, train

LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"


@pytest.fixture(autouse=True)
def card_back() -> Iterator[None]:
    yield
    failure.lost_cards.clear()


@pytest.fixture
def own_pairs(workspace: Workspace, paired_folder: Path, tmp_path: Path) -> Path:
    """A copy of the paired folder that a test may spoil, as the dataset "pairs"."""
    folder = tmp_path / "disk" / "pairs"
    shutil.copytree(paired_folder, folder)
    Dataset.create(workspace, "pairs", scan_folder(folder))
    return folder


def break_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """From this step on, nothing works on the card any more: neither a step nor what clears up."""
    real_step, real_close = faults.train_step, trainer.Trainer.close

    def train_step(state: Any) -> Any:
        if state.step >= number:
            raise error
        return real_step(state)

    def close(self: Any) -> None:
        real_close(self)
        raise error

    monkeypatch.setattr(faults, "train_step", train_step)
    monkeypatch.setattr(trainer.Trainer, "close", close)


@pytest.mark.answers("The graphics card stopped answering")
@pytest.mark.parametrize("saved", [2, pytest.param(0, marks=pytest.mark.long)])
def test_a_lost_card_ends_the_run_in_words_that_name_what_is_left(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    run = new_run(**{"train.checkpoint_every": 2 if saved else 100})
    break_at(monkeypatch, 3, torch.AcceleratorError(LOST))
    with pytest.raises(UserError, match="stopped answering") as caught:
        train(ready_workspace, run)
    text = str(caught.value)
    assert "unspecified launch failure" in text and "start it again" in text
    assert ("step 2 is complete" if saved else "nothing had been saved") in text
    assert (run.ending, run.last_step) == ("failed", saved)

    refused = missing(ready_workspace, run.config)
    assert any("close the app and start it again" in sentence for sentence in refused), "this process has lost its card"
    with pytest.raises(UserError, match="cannot continue"):
        resume_training(JobRunner(), ready_workspace, run.folder)
    failure.lost_cards.clear()  # started again
    monkeypatch.undo()
    assert train(ready_workspace, run).outcome == "completed"


def test_a_card_that_is_lost_while_it_draws_is_not_taken_for_a_fault_of_the_images(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError(LOST)

    monkeypatch.setattr("engine.training.previews.make_previews", lost)
    with pytest.raises(UserError, match="stopped answering"):
        train(ready_workspace, new_run(**{"validation.every": 3}))


@pytest.mark.answers("The computer's own memory ran out")
def test_a_computer_without_memory_says_so_and_its_run_goes_on(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ladder cannot help where every step fails for want of RAM."""
    run = new_run(**{"train.checkpoint_every": 2})
    real = faults.train_step

    def train_step(state: Any) -> Any:
        if state.step >= 3:
            raise MemoryError
        return real(state)

    monkeypatch.setattr(faults, "train_step", train_step)
    with pytest.raises(UserError, match="not enough memory"):
        train(ready_workspace, run)
    assert (run.ending, run.last_step) == ("failed", 2)
    monkeypatch.undo()
    assert train(ready_workspace, run).outcome == "completed"


def spoil_from(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """``action()`` once the run has done this many steps."""
    real, done = hooks.Hooks.after_step, []

    def after_step(self: Any) -> None:
        real(self)
        if self._state.step >= number and not done:
            done.append(number)
            action()

    monkeypatch.setattr(hooks.Hooks, "after_step", after_step)


def spoiled_run(
    workspace: Workspace,
    make_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[], None],
) -> tuple[Run, DataGone]:
    """A run whose dataset is spoiled after its third step, and what it said: on a disk without room to prepare maps."""
    monkeypatch.setattr("engine.data.map_cache.open_or_build", lambda *_: None)
    run = create_run(workspace, make_config(**{"train.steps": 40}), {})
    spoil_from(monkeypatch, 3, action)
    with pytest.raises(DataGone) as caught:
        train(workspace, run)
    monkeypatch.undo()
    steps = [entry["step"] for entry in run.metrics() if "loss" in entry]
    assert (run.ending, run.last_step) == ("failed", steps[-1]), "what was learnt is saved"
    assert run.last_step >= 3
    return run, caught.value


@pytest.mark.answers("A file is in use, or is gone")
def test_a_disk_that_was_pulled_out_saves_the_run_and_is_named(
    workspace: Workspace, own_pairs: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = own_pairs.with_name("unplugged")
    run, error = spoiled_run(workspace, make_config, monkeypatch, lambda: own_pairs.rename(away) and None)
    assert str(own_pairs) in error.why and "Connect its disk" in error.try_this
    away.rename(own_pairs)
    saved = run.last_step
    trained = train(workspace, run)
    assert trained.outcome == "completed" and trained.of(StepDone)[0].step == saved + 1


@pytest.mark.parametrize("spoil", ["cut short", pytest.param("deleted", marks=pytest.mark.long)])
def test_a_cache_that_changed_under_way_is_named_and_made_again(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    straight, run = new_run(), new_run()
    train(ready_workspace, straight)
    files = sorted(ready_workspace.cache.rglob("latents-*.safetensors"))

    def change() -> None:
        for path in files:
            path.unlink() if spoil == "deleted" else os.truncate(path, 200)

    spoil_from(monkeypatch, 3, change)
    with pytest.raises(DataGone, match="was changed while the run used it") as caught:
        train(ready_workspace, run)
    monkeypatch.undo()
    assert files[0].name in caught.value.why and run.last_step >= 3, "what was learnt is saved"
    assert train(ready_workspace, run).outcome == "completed"
    assert_same_run(straight, run)


@pytest.mark.answers("A file is in use, or is gone")
def test_a_map_that_was_deleted_under_way_is_named(
    workspace: Workspace, own_pairs: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete() -> None:
        for path in (own_pairs / "conditions").iterdir():
            path.unlink()

    _, error = spoiled_run(workspace, make_config, monkeypatch, delete)
    assert ".png" in error.what and "is missing" in error.what and "Conditions tab" in error.try_this


def test_a_map_that_was_broken_under_way_is_named(
    workspace: Workspace, own_pairs: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off() -> None:
        for path in (own_pairs / "conditions").iterdir():
            path.write_bytes(path.read_bytes()[:60])

    _, error = spoiled_run(workspace, make_config, monkeypatch, cut_off)
    assert "cannot be read" in error.what and str(own_pairs) in error.why


def test_a_set_that_was_prepared_may_be_unplugged(
    workspace: Workspace, own_pairs: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(workspace, make_config(), {})
    spoil_from(monkeypatch, 3, lambda: shutil.rmtree(own_pairs))
    assert train(workspace, run).outcome == "completed"


@pytest.mark.answers("Images were changed or deleted after the folder was read")
def test_images_that_were_changed_are_reported_when_the_run_goes_on(
    workspace: Workspace, own_pairs: Path, make_config: Callable[..., RunConfig]
) -> None:
    run = create_run(workspace, make_config(), {})
    assert train(workspace, run, at_step={3: "pause"}).outcome == "paused"
    images = sorted((own_pairs / "images").glob("*.png"))
    images[0].unlink()
    images[1].write_bytes(images[2].read_bytes())
    same_size = bytearray(images[3].read_bytes())
    same_size[-20] ^= 1
    images[3].write_bytes(same_size)
    trained = train(workspace, run)
    assert trained.outcome == "completed", "what was prepared is used; nothing is lost"
    (text,) = [m.text for m in trained.of(Message) if "since the folder was read" in m.text]
    assert "3 of 12" in text and images[0].name in text and "Dataset tab" in text


def test_a_copied_or_touched_folder_is_not_a_changed_one(own_pairs: Path, workspace: Workspace) -> None:
    from engine.data.changed_files import changed_since_read

    for path in (own_pairs / "images").iterdir():
        shutil.copyfile(path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    assert changed_since_read(Dataset.open(workspace.dataset_folder("pairs"))).files == ()


def test_a_verdict_that_breaks_does_not_end_the_run(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no figures")

    monkeypatch.setattr("engine.training.loss_checks.judge_run", broken)
    run = new_run(**{"train.checkpoint_every": 2})
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed" and run.completed
    assert any("No verdict" in message.text for message in trained.of(Message))


@pytest.mark.parametrize("jump", [-400 * 86_400.0, pytest.param(400 * 86_400.0, marks=pytest.mark.long)])
def test_a_clock_that_is_set_in_mid_run_changes_nothing(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Back by more than a year, or on: the run ends as it would have, nothing took a negative time, none is swept."""
    straight, run = new_run(**{"train.checkpoint_every": 2}), new_run(**{"train.checkpoint_every": 2})
    train(ready_workspace, straight)
    now, compute = time.time, faults.train_step

    def train_step(state: Any) -> Any:
        if state.step == 3:  # in the middle of a step that is being timed
            monkeypatch.setattr(time, "time", lambda: now() + jump)
        return compute(state)

    monkeypatch.setattr(faults, "train_step", train_step)
    assert train(ready_workspace, run, at_step={4: "pause"}).outcome == "paused"
    assert train(ready_workspace, run).outcome == "completed"
    assert_same_run(straight, run)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 4, 6]
    assert all(0 <= entry["seconds"] < 3600 for entry in run.metrics() if "seconds" in entry)


def test_settings_of_a_run_that_were_damaged_are_reported(new_run: RunFactory) -> None:
    folder = new_run().folder
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del about["config"]
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match="holds no settings"):
        Run(folder)
