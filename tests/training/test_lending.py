"""Try it while a run trains: its own models, between two steps, and the run is none the worse for it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.families.registry import detect
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import BorrowRequest, Cancelled
from engine.jobs.runner import JobRunner
from engine.training.lending import borrowing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, losses
from tests.short_runs import RunFactory, train

AVERAGED = {"optim.ema_decay": 0.5, "validation.check_every": 0}
MODES = {"fp32": AVERAGED, "bf16, offload": {**AVERAGED, "train.precision": "bf16", "optim.offload": True}}


@pytest.fixture
def request_(tiny_base: Path, edges: Image.Image) -> TryRequest:
    how = {"steps": 2, "width": 64, "height": 64, "seed": 3}
    return TryRequest(
        base=str(tiny_base), controlnet=LIVE, prompt="red circle", control=edges, sampler="euler_a", **how
    )


@pytest.mark.answers("Can I try it while it trains?")
@pytest.mark.parametrize("mode", [pytest.param("fp32", marks=pytest.mark.long), "bf16, offload"])
def test_images_of_the_live_weights_change_nothing_in_the_run(
    new_run: RunFactory, ready_workspace: Workspace, request_: TryRequest, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    straight, lending = new_run(**MODES[mode]), new_run(**MODES[mode])
    train(ready_workspace, straight)
    seen: list[Any] = []

    def draw(session: TrySession, token: Any) -> Image.Image:
        image = session.generate([request_], token)[0]
        seen.append((session.pipeline.unet, session.pipeline.controlnet))
        return image

    requests = {step: borrowing(ready_workspace, draw) for step in (1, 3, 6)}
    loaded: list[str] = []
    family = type(detect(request_.base))
    load_denoiser = family.load_denoiser
    monkeypatch.setattr(family, "load_denoiser", lambda self, *a: loaded.append("unet") or load_denoiser(self, *a))
    assert train(ready_workspace, lending, requests=requests).outcome == "completed"

    assert loaded == ["unet"]  # the trainer's; trying loads none
    assert len({id(net) for pair in seen for net in pair}) == 2  # the same two each time
    assert_same_checkpoint(straight.checkpoints()[-1].folder, lending.checkpoints()[-1].folder)
    assert losses(straight) == losses(lending)
    last = requests[6].wait(0)
    assert np.abs(np.asarray(requests[1].wait(0)).astype(int) - np.asarray(last)).max() > 0  # it has learnt meanwhile
    if mode == "fp32":  # what was drawn at the last step is what its checkpoint (the average) draws
        saved = replace(request_, controlnet=lending.checkpoints()[-1].controlnet)
        assert np.array_equal(TrySession(ready_workspace, device="cpu").generate([saved])[0], last)


def test_another_checkpoint_of_the_base_can_be_tried_and_another_base_is_refused(
    new_run: RunFactory, ready_workspace: Workspace, request_: TryRequest, loud_controlnet: Path, tiny_sd2: Path
) -> None:
    other, foreign = replace(request_, controlnet=loud_controlnet), replace(request_, base=str(tiny_sd2))
    requests = {
        1: borrowing(ready_workspace, lambda session, token: session.generate([other, request_, other], token)),
        2: borrowing(ready_workspace, lambda session, token: session.generate([foreign], token)),
    }
    assert train(ready_workspace, new_run(**{"train.steps": 3}), requests=requests).outcome == "completed"
    first, live, again = requests[1].wait(0)
    assert np.array_equal(first, again) and not np.array_equal(first, live)
    assert np.array_equal(first, TrySession(ready_workspace, device="cpu").generate([other])[0])
    with pytest.raises(UserError, match="cannot be tried during training.*another base.*pause"):
        requests[2].wait(0)


def test_a_fault_or_a_cancel_ends_the_drawing_and_not_the_training(
    new_run: RunFactory, ready_workspace: Workspace, request_: TryRequest
) -> None:
    def draw(session: TrySession, token: Any) -> Any:
        return session.generate([request_], token, lambda *_: cancelled.cancel())

    def broken(session: TrySession, token: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    cancelled = borrowing(ready_workspace, draw)
    requests = {1: cancelled, 2: borrowing(ready_workspace, broken)}
    assert train(ready_workspace, new_run(**{"train.steps": 3}), requests=requests).outcome == "completed"
    with pytest.raises(Cancelled):
        cancelled.wait(0)
    with pytest.raises(RuntimeError):
        requests[2].wait(0)


def test_a_base_that_learns_is_drawn_with_as_it_is(
    new_run: RunFactory, ready_workspace: Workspace, request_: TryRequest
) -> None:
    run = new_run(**{"train.steps": 2, "objective.sd_locked": False})
    request = borrowing(ready_workspace, lambda session, token: session.generate([request_], token)[0])
    assert train(ready_workspace, run, requests={2: request}).outcome == "completed"
    saved = replace(request_, controlnet=run.checkpoints()[-1].controlnet)
    assert np.array_equal(TrySession(ready_workspace, device="cpu").generate([saved])[0], request.wait(0))


def test_a_job_that_ends_refuses_what_it_has_not_done() -> None:
    runner, gate = JobRunner(), threading.Event()
    early, late = BorrowRequest(lambda lender, request: 1), BorrowRequest(lambda lender, request: 2)
    assert not runner.send(early)  # nothing runs
    runner.start("train", "Training x", lambda token, emit: "completed" if gate.wait(60) else "failed")
    assert runner.send(early)
    with pytest.raises(TimeoutError):
        early.wait(0)
    gate.set()
    assert runner.wait(60)
    with pytest.raises(UserError, match="has ended"):
        early.wait(60)
    assert not runner.send(late)
