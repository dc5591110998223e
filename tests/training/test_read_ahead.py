"""Batches are read ahead for a card only, and are the same either way."""

from __future__ import annotations

import functools
import threading

import pytest

from engine.jobs.events import StepDone
from engine.training import setup
from engine.training.batches import Batches
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, Trained, train


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_without_a_card_one_thread_reads_and_computes_and_reading_ahead_changes_nothing(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def look(trained: Trained) -> None:
        seen.append(readers())

    alone = new_run(**{"train.accumulation": 2})
    train(ready_workspace, alone, when={StepDone: look})
    assert seen and not any(seen), "a second thread that uses torch makes OpenMP's threads sleep between operations"

    seen.clear()
    with_reader = functools.partial(_reading_ahead, Batches)
    monkeypatch.setattr(setup, "Batches", with_reader)
    ahead = new_run(**{"train.accumulation": 2})
    train(ready_workspace, ahead, when={StepDone: look})
    assert all(seen) and not readers(), "the reader lives as long as the run"
    assert_same_run(alone, ahead)


def _reading_ahead(make: type[Batches], *arguments: object, **options: object) -> Batches:
    return make(*arguments, **{**options, "read_ahead": True})  # type: ignore[arg-type]
