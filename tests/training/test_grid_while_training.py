"""A grid is drawn by a run in progress, from its own models, and the run goes on as if nobody had asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.evaluation.grid import Grid, GridRequest, read_grid
from engine.evaluation.grid_drawing import draw_grid
from engine.evaluation.image_cache import ImageCache
from engine.inference.session import TrySession
from engine.jobs.control import BorrowRequest
from engine.runs.run import Run
from engine.training import checkpointer
from engine.training.lending import borrowing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, losses
from tests.short_runs import RunFactory, train
from tests.training.test_full_disk import AtOnce

SETTINGS = {"train.steps": 4, "train.checkpoint_every": 1, "train.keep_checkpoints": 0, "optim.ema_decay": 0.5}
REQUEST = GridRequest(pictures=(0,), seeds=(3,), live=True, sampling_steps=2)


def train_and_draw(workspace: Workspace, run: Run, at: int, draw: Callable[[Any, Any], Any]) -> BorrowRequest:
    """Train in this thread; after step ``at`` the user asks for a drawing."""
    request = borrowing(workspace, draw)
    assert train(workspace, run, requests={at: request}).outcome == "completed"
    return request


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is still on its way to the disk is in no grid."""
    monkeypatch.setattr(checkpointer, "ThreadPoolExecutor", AtOnce)


def test_a_grid_of_the_run_in_progress_changes_nothing_in_it(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, lending = new_run(**SETTINGS), new_run(**SETTINGS)
    train(ready_workspace, straight)

    def draw(session: Any, token: Any) -> Grid:
        return draw_grid(ready_workspace, lending, REQUEST, session, token, live_step=session.step)

    grid = train_and_draw(ready_workspace, lending, 3, draw).wait(0)
    assert [column.title for column in grid.columns] == [
        "without ControlNet",
        "step 1",
        "step 2",
        "step 3",
        "now (step 3)",
    ]
    assert grid.complete and grid.notes == () and read_grid(lending) == grid
    assert losses(lending) == losses(straight)
    assert_same_checkpoint(straight.checkpoints()[-1].folder, lending.checkpoints()[-1].folder)

    drawn = ImageCache(ready_workspace)
    images = [np.asarray(drawn.open(str(key))).astype(int) for key in grid.cells[0]]
    assert np.array_equal(images[3], images[4]), "at its own step a checkpoint is what is live"
    assert not np.array_equal(images[1], images[3])
    # Found again after the training; only the live weights of that moment are gone.
    asked: list[Any] = []
    monkeypatch.setattr(TrySession, "generate", lambda self, requests, *_: asked.extend(requests))
    again = draw_grid(
        ready_workspace,
        lending,
        GridRequest((1, 2, 3), pictures=(0,), seeds=(3,), sampling_steps=2),
        TrySession(ready_workspace, "cpu"),
    )
    assert asked == [] and again.cells[0] == grid.cells[0][:4]


def test_of_a_base_that_learns_only_what_is_live_can_be_drawn(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{**SETTINGS, "optim.ema_decay": 0.0, "train.steps": 2, "objective.sd_locked": False})

    def draw(session: Any, token: Any) -> Grid:
        return draw_grid(ready_workspace, run, REQUEST, session, token, live_step=session.step)

    grid = train_and_draw(ready_workspace, run, 2, draw).wait(0)
    titles = {column.title: key for column, key in zip(grid.columns, grid.cells[0], strict=True)}
    assert titles["without ControlNet"] and titles["now (step 2)"] and titles["step 1"] is None
    assert any("the base is trained, too" in note for note in grid.notes)
