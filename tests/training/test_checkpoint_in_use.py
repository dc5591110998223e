"""Another program has a file of a new checkpoint open, and Windows refuses to rename its folder: nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.disk import retry
from engine.disk.retry import Unsaved
from engine.errors import UserError
from engine.jobs.events import CheckpointSaved, StepDone, Waiting
from engine.runs.checkpoints import list_checkpoints, read_checkpoint
from engine.runs.cleanup import clean_up, star
from engine.training import checkpoint as checkpoint_module
from engine.training import checkpointer
from engine.training.checkpoint import lacks_only_its_name, stage_checkpoint
from engine.tuning.controlnet import WholeControlNet
from engine.tuning.trainable import Placement
from engine.workspace.paths import Workspace
from tests.disk.in_use import open_elsewhere
from tests.short_runs import RunFactory, train
from tests.training.test_full_disk import AtOnce


def is_new_checkpoint(path: Path) -> bool:
    return path.name.startswith(".writing-step-")


class Small:
    """A net of two layers, and a run's folder for its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.net = torch.nn.Linear(2, 2)
        self.net.save_pretrained = lambda place, **_: (  # type: ignore[assignment]
            place.mkdir(),
            save_file(self.net.state_dict(), place / "weights.safetensors"),
        )
        self.trainable = WholeControlNet(self.net, Placement(torch.device("cpu"), torch.float32))
        self.optimizer = torch.optim.AdamW(self.net.parameters())

    def save(self, step: int = 1) -> Any:
        return stage_checkpoint(self.folder, step, step, self.trainable, None, self.optimizer, None, {})()

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def test_where_only_the_rename_fails_the_files_stay_and_are_not_written_again(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        open_elsewhere(held, is_new_checkpoint)
        with pytest.raises(PermissionError):
            small.save()
    assert small.names == [f".writing-step-000001.{os.getpid()}"] and lacks_only_its_name(small.folder, 1)
    monkeypatch.setattr(checkpoint_module, "write_files", lambda *_: pytest.fail("it is written already"))
    assert small.save().step == 1 and small.names == ["step-000001"]


def test_the_next_start_gives_it_its_name_or_says_what_is_in_the_way(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        open_elsewhere(held, is_new_checkpoint)
        with pytest.raises(PermissionError):
            small.save()
        with pytest.raises(UserError, match="step-000001 of run is complete but could not be renamed yet") as raised:
            clean_up(small.folder, own=True)
        assert "virus scanner" in raised.value.why
    assert clean_up(small.folder, own=True) == []
    assert [found.step for found in list_checkpoints(small.folder)] == [1]


def test_a_broken_one_in_its_place_does_not_cost_the_whole_one(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small.save().folder
    star(small.folder, 1)
    (target / "controlnet" / "weights.safetensors").write_bytes(b"cut off")
    with monkeypatch.context() as held:
        open_elsewhere(held, lambda path: path == target)
        with pytest.raises(PermissionError):
            small.save()
    assert read_checkpoint(target) is None and len(small.names) == 2
    clean_up(small.folder, own=True)
    found = read_checkpoint(target)
    assert found is not None and found.resumable and found.starred and small.names == ["step-000001"]
    assert torch.equal(load_file(target / "controlnet" / "weights.safetensors")["weight"], small.net.weight)


def test_old_checkpoints_that_are_open_are_removed_at_a_later_start(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save()
    left = small.folder / "checkpoints" / ".removing-step-000000"
    left.mkdir()
    with monkeypatch.context() as held:
        open_elsewhere(held, lambda path: path == left)
        clean_up(small.folder, own=True)
        assert left.exists()
    clean_up(small.folder, own=True)
    assert small.names == ["step-000001"]


def test_training_continues_and_the_last_checkpoint_waits_for_its_name(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(retry, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(retry, "FIRST_RETRY", 0.02)
    scanner = open_elsewhere(monkeypatch, is_new_checkpoint)
    run = new_run(**{"train.steps": 3, "train.checkpoint_every": 1})
    trained = train(ready_workspace, run, when={Waiting: lambda trained: setattr(scanner, "left", 0)})
    assert trained.outcome == "completed" and trained.of(StepDone)[-1].step == 3
    assert [event.step for event in trained.of(CheckpointSaved)] == [3], "it waited for the last one only"
    text = " ".join(trained.warnings)
    assert "The checkpoint of step 1 was written but could not be renamed. Another program has one of" in text
    assert "The checkpoint of step 3 is waiting for the disk. Another program has one of its files open" in text
    assert [found.step for found in run.checkpoints()] == [1, 2, 3], "the others are named as soon as they can be"


def test_a_run_that_is_ended_meanwhile_loses_no_step(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LOOK_SECONDS", 0.01)
    run = new_run(**{"train.steps": 2, "train.checkpoint_every": 50})
    with monkeypatch.context() as held:
        open_elsewhere(held, is_new_checkpoint)
        with pytest.raises(Unsaved, match="checkpoint of step 2 was written but could not be renamed"):
            train(ready_workspace, run, when={Waiting: lambda trained: trained.control.stop()})
    clean_up(run.folder, own=True)
    assert run.completed
