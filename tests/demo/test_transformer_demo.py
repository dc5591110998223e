"""The demo on the transformer: everything that a run offers works on it, and the net learns to follow its outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cli.demo import MAX_IOU_WITHOUT, MIN_COLOURS, MIN_IOU, run_demo
from engine.config.presets import resolve, unflatten
from engine.demo.sets import demo_preset, make_demo_set
from engine.evaluation.grid import read_grid
from engine.evaluation.run_verdict import verdict_of
from engine.families.files import family_of
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.inference.transfer import transfer
from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.queue.folder import QueueFolder
from engine.queue.kinds import KINDS
from engine.queue.perform import perform
from engine.runs.run import Run
from engine.training.lending import borrowing
from engine.workspace.paths import Workspace

BASE = "demo-transformer"
SHORT: dict[str, Any] = {
    "model.control_blocks": 1,
    "data.held_out": 2,
    "optim.warmup_steps": 0,
    "train.steps": 2,
    "train.batch_size": 1,
    "train.checkpoint_every": 1,
    "validation.every": 1,
    "validation.pictures": 1,
    "validation.sampling_steps": 2,
    "validation.check_every": 1,
}


def queued(workspace: Workspace, kind: str, settings: dict[str, Any], emit: Any, control: Control) -> Any:
    """Do one job through the queue."""
    queue = QueueFolder(workspace)
    queue.add(kind, KINDS[kind](**settings).title, settings)
    entry = queue.take()
    assert entry is not None
    return perform(workspace, queue, entry, control.token, emit)


def test_previews_verdict_live_weights_grid_transfer_and_queue_work(workspace: Workspace) -> None:
    dataset = make_demo_set(workspace, "circles", 6)
    layers = demo_preset().layers(family_of(workspace, BASE))
    own = {"model.base": BASE, "data.dataset": dataset.name, **SHORT}
    config, _ = resolve(*layers, ("test", unflatten(own)))
    sample = next(iter(dataset.samples()))
    how: dict[str, Any] = {"base": BASE, "prompt": sample.caption, "width": 128, "height": 128, "steps": 2}
    asked = TryRequest(controlnet=LIVE, control=Image.open(dataset.condition_path(sample)).convert("RGB"), **how)
    live = borrowing(workspace, lambda session, token: session.generate([asked], token)[0])
    control = Control()

    def emit(event: Any) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            assert control.send(live)

    queued(workspace, "train", {"config": config.model_dump(mode="json")}, emit, control)
    run = Run(next(iter(workspace.runs.iterdir())))
    assert [record.step for record in run.previews()] == [0, 1, 2]
    assert {"iou", "colours"} <= set(run.previews()[0].scores)
    assert verdict_of(run.history(), workspace.datasets) is not None
    assert np.asarray(live.wait(0)).shape == (128, 128, 3)

    queued(workspace, "grid", {"run": run.name, "pictures": (0,), "sampling_steps": 2}, lambda _: None, Control())
    grid = read_grid(run)
    assert grid is not None and grid.complete and len(grid.columns) == 3

    request = TryRequest(controlnet=run.checkpoints()[-1].controlnet, control=asked.control, **how)
    on_both = transfer(TrySession(workspace, device="cpu"), request, [BASE, "demo"])
    assert [one.image is not None for one in on_both] == [True, False] and "does not fit" in on_both[1].problem


@pytest.mark.long
def test_the_whole_demo_learns_where_the_outlines_are(workspace: Workspace) -> None:
    lines: list[str] = []
    result = run_demo(workspace, Control().token, lambda event: None, lambda *_: None, lines.append, base=BASE)
    assert result.colours >= MIN_COLOURS and result.iou_without <= MAX_IOU_WITHOUT, "\n".join(lines)
    assert result.iou >= MIN_IOU, "\n".join(lines)
    run = Run(result.run_folder)
    verdict = verdict_of(run.history(), workspace.datasets)
    assert verdict is not None and verdict.follows_since is not None
