"""Pictures are drawn with a run's own models between two steps, and the run goes on as if nobody had come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.borrowing import LIVE, BorrowedSession
from engine.inference import TryRequest, TrySession
from engine.jobs.control import Control, Token
from engine.jobs.events import Event, StepDone
from engine.jobs.runner import Emit
from engine.jobs.visits import Visit
from engine.runs import Run
from engine.training.lending import Lent
from engine.training.run import training_job
from engine.workspace import Workspace

from .conftest import RunFactory, Worker
from .test_resume import assert_same_checkpoint, losses

MODES = {
    "plain": {},
    "average": {"optim.ema_decay": 0.9},
    "bf16, the whole net checkpointed": {"train.precision": "bf16", "train.gradient_checkpointing": "both"},
    "base not locked": {"objective.sd_locked": False},
}

ROUNDING = 0.5
"""Of 255, mean over the picture: weights in bf16 round otherwise than fp32 weights under autocast."""


def train_with_visitor(workspace: Workspace, run: Run, at: int, work: Callable[[Lent, Token, Emit], Any]) -> Visit:
    """Train the run in this thread; after step ``at`` somebody asks for ``work``."""
    control = Control(lends=True)
    visit = Visit("try", "Drawing", lambda lent, token, emit: work(lent, token, emit) or "completed")

    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == at:
            control.visit(visit)

    training_job(workspace, run)(control.token, emit)
    return visit


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_lends_its_models_equals_one_that_does_not(
    new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, mode: str
) -> None:
    settings = {"train.steps": 4, "train.checkpoint_every": 1, "train.keep_checkpoints": 0, **MODES[mode]}
    alone = new_run(**settings)
    Worker(ready_workspace, alone)
    run = new_run(**settings)
    pictures: list[Image.Image] = []
    seen: list[Lent] = []

    def work(lent: Lent, token: Token, emit: Emit) -> None:
        seen.append(lent)
        session = BorrowedSession(ready_workspace, lent)
        nets = [LIVE, run.checkpoints()[0].controlnet, run.checkpoints()[1].controlnet, LIVE]
        base = run.config.model.base
        wishes = [TryRequest(base, net, "a red circle", edges, steps=2, width=64, height=64) for net in nets]
        pictures.extend(session.generate(wishes, token))
        assert session._pipeline.unet is lent.unet, "no second copy of the base"

    visit = train_with_visitor(ready_workspace, run, 2, work)
    assert visit.snapshot.failure is None, visit.snapshot.failure
    assert (visit.snapshot.outcome, seen[0].step) == ("completed", 2)
    assert losses(run) == losses(alone)
    assert_same_checkpoint(alone.checkpoints()[-1].folder, run.checkpoints()[-1].folder)

    live, first, second, again = (np.asarray(picture).astype(int) for picture in pictures)
    assert np.array_equal(live, again), "drawing with other weights in between changes nothing"
    assert np.abs(live - second).mean() <= ROUNDING, "the checkpoint of that very step holds those weights"
    assert not np.array_equal(first, second)
    base = run.config.model.base
    wish = TryRequest(base, run.checkpoints()[0].controlnet, "a red circle", edges, steps=2, width=64, height=64)
    session = TrySession(ready_workspace, "cpu", seen[0].dtype)
    own = np.asarray(session.generate([wish])[0]).astype(int)
    assert np.array_equal(first, own), "as a session of its own draws"


def test_a_run_lends_only_its_own_base(
    new_run: RunFactory, ready_workspace: Workspace, tiny_sd2_base: Any, edges: Image.Image
) -> None:
    run = new_run(**{"train.steps": 2})
    wish = TryRequest(str(tiny_sd2_base), LIVE, "a red circle", edges, steps=1, width=64, height=64)

    def work(lent: Lent, token: Token, emit: Emit) -> None:
        BorrowedSession(ready_workspace, lent).generate([wish], token)

    visit = train_with_visitor(ready_workspace, run, 1, work)
    assert visit.snapshot.failure is not None and "another one in memory" in visit.snapshot.failure.why
    assert run.completed, "the training does not mind"
