"""Training goes on while the disk takes a checkpoint, and loses nothing where the disk does not."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from engine.disk import durable, retry
from engine.jobs.events import CheckpointSaved, PhaseChanged, StepDone, Waiting
from engine.training import checkpoint, checkpointer, trainer
from engine.training.state import TrainState
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, Trained, train
from tests.training.test_full_disk import AtOnce


class SlowToFinish:
    """A disk that has a checkpoint only when ``let`` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let, self.threads = threading.Event(), set[str]()
        real = checkpoint.finish_writing

        def finish(*arguments: Any) -> Any:
            self.threads.add(threading.current_thread().name)
            assert self.let.wait(60), "nobody lets it end"
            return real(*arguments)

        monkeypatch.setattr(checkpoint, "finish_writing", finish)


def steps_saved(trained: Trained) -> list[int]:
    return [event.step for event in trained.of(CheckpointSaved)]


def test_steps_are_made_while_the_disk_takes_a_checkpoint(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.steps": 6, "train.checkpoint_every": 2}
    straight, run = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    disk = SlowToFinish(monkeypatch)
    seen: list[tuple[int, list[int]]] = []

    def look(trained: Trained) -> None:
        step = trained.of(StepDone)[-1].step
        seen.append((step, [saved.step for saved in run.checkpoints()]))
        if step == 4:
            disk.let.set()

    trained = train(ready_workspace, run, when={StepDone: look})
    assert (4, []) in seen, "two steps were made, and the disk did not have the checkpoint yet"
    assert steps_saved(trained) == [2, 4, 6], "the next one waits for it; the last one is there when the run ends"
    assert {name.split("_")[0] for name in disk.threads} == {"checkpoint", "MainThread"}
    phases = [phase for phase, _ in groupby(event.phase for event in trained.of(PhaseChanged))]
    assert phases[-6:] == ["saving", "running"] * 3
    assert_same_run(straight, run)


def test_what_the_disk_loses_on_the_way_is_saved_with_a_later_step(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.steps": 6, "train.checkpoint_every": 2}
    straight, run = new_run(**settings), new_run(**settings)
    train(ready_workspace, straight)
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)
    real = durable.flush

    def flush(path: Path) -> None:
        if ".writing-step-000002" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(durable, "flush", flush)
    trained = train(ready_workspace, run)
    assert steps_saved(trained) == [3, 4, 6] and not trained.of(Waiting)
    text = " ".join(trained.warnings)
    assert "The checkpoint of step 2 could not be written to the disk. The system says: Input/output error." in text
    assert not list((run.folder / "checkpoints").glob(".*"))
    assert_same_run(straight, run)


def test_a_disk_that_stays_broken_halts_the_run_at_a_later_step(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(retry, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(retry, "FIRST_RETRY", 0.02)
    real, mended = durable.flush, threading.Event()

    def flush(path: Path) -> None:
        if ".writing-" in str(path) and not mended.is_set():
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(durable, "flush", flush)
    run = new_run(**{"train.steps": 6, "train.checkpoint_every": 2})
    trained = train(ready_workspace, run, when={Waiting: lambda trained: mended.set()})
    assert trained.outcome == "completed" and steps_saved(trained) == [3, 4, 6]
    assert "The checkpoint of step 3 is waiting for the disk" in " ".join(trained.warnings)


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, first: Callable[[], Any]) -> None:
    """After so many steps, ``first()`` and an error that nobody expects."""
    real = trainer.take_step

    def take_step(state: TrainState) -> Any:
        if state.step == step:
            first()
            raise RuntimeError("something else")
        return real(state)

    monkeypatch.setattr(trainer, "take_step", take_step)


def test_a_run_that_breaks_off_takes_the_checkpoint_on_its_way_along(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowToFinish(monkeypatch)
    run = new_run(**{"train.steps": 6, "train.checkpoint_every": 2})

    def soon() -> None:
        assert not run.checkpoints()
        threading.Timer(0.1, disk.let.set).start()

    break_at(monkeypatch, 3, soon)
    with pytest.raises(RuntimeError, match="something else"):
        train(ready_workspace, run)
    assert run.last_step == 2 and run.ending == "failed"
    assert not list((run.folder / "checkpoints").glob(".*"))


def test_a_run_that_breaks_off_says_so_where_the_checkpoint_on_its_way_is_lost(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)

    real = durable.flush

    def flush(path: Path) -> None:
        if ".writing-" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    run = new_run(**{"train.steps": 6, "train.checkpoint_every": 2})
    break_at(monkeypatch, 2, lambda: None)  # before anybody looked
    monkeypatch.setattr(durable, "flush", flush)
    with pytest.raises(RuntimeError, match="something else"):
        train(ready_workspace, run)
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "The checkpoint of step 2 could not be written to the disk" in log
    assert not run.checkpoints() and not list((run.folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("ask", ["pause", "stop", "save_now"])
def test_whoever_asks_meanwhile_is_heard(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    disk = SlowToFinish(monkeypatch)
    run = new_run(**{"train.steps": 6, "train.checkpoint_every": 2})

    def at_three(trained: Trained) -> None:
        if trained.of(StepDone)[-1].step == 3:
            getattr(trained.control, ask)()
            threading.Timer(0.1, disk.let.set).start()

    trained = train(ready_workspace, run, when={StepDone: at_three})
    assert steps_saved(trained) == ([2, 3, 4, 6] if ask == "save_now" else [2, 3])
