"""Try it with a LoRA's or a word's own checkpoints, without an export: after the training, and between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cli.main import main
from engine.errors import UserError
from engine.inference.request import LIVE, TryRequest
from engine.inference.session import TrySession
from engine.runs.adapters import adapter_of, is_adapter, net_of
from engine.runs.run import Run
from engine.training.lending import borrowing
from engine.workspace.paths import Workspace
from tests.short_runs import train
from tests.teaching_runs import add_images
from tests.teaching_runs import run_of as run_that_teaches

TUNING: dict[str, dict[str, Any]] = {
    "lora": {"what": "lora", "rank": 4},
    "lora with text": {"what": "lora", "rank": 4, "text_rate": 1e-2},
    "word": {"what": "word", "word": "zrp", "begun_as": "red", "vectors": 2},
}


@pytest.fixture(params=["lora", *(pytest.param(one, marks=pytest.mark.long) for one in TUNING if one != "lora")])
def run(request: pytest.FixtureRequest, workspace: Workspace, tmp_path: Path, tiny_base: Path) -> Run:
    add_images(workspace, tmp_path / "images")
    settings = {"optim": {"learning_rate": 3e-2, "ema_decay": 0.5}, "train": {"steps": 2}}
    return run_that_teaches(workspace, tiny_base, tuning=TUNING[request.param], **settings)


def request_of(run: Run, net: Path, **changed: Any) -> TryRequest:
    values: dict[str, Any] = {"prompt": "zrp noise", "steps": 2, "width": 64, "height": 64, "seed": 3} | changed
    control = Image.new("RGB", (64, 64))
    return TryRequest(base=run.config.model.base, controlnet=net, control=control, **values)


def drawn(session: TrySession, request: TryRequest) -> np.ndarray:
    return np.asarray(session.generate([request])[0]).astype(int)


def test_checkpoints_are_drawn_with_as_the_live_weights_were(workspace: Workspace, run: Run) -> None:
    """What the live weights draw at the last step, its checkpoint draws afterwards; "without it" is the base's own."""
    live: list[np.ndarray] = []

    def draw(session: TrySession, token: Any) -> None:
        live.append(drawn(session, request_of(run, LIVE)))
        with pytest.raises(UserError, match="base alone cannot be drawn with during training"):
            drawn(session, request_of(run, LIVE, without_control=True))

    trained = train(workspace, run, requests={2: borrowing(workspace, draw)})
    assert trained.outcome == "completed" and trained.warnings == [] and len(live) == 1
    checkpoint = run.checkpoints()[-1]
    net = net_of(checkpoint)
    assert checkpoint.has_ema and net == adapter_of(checkpoint) and is_adapter(net) and "ema" in str(net)
    session = TrySession(workspace, "cpu", torch.float32)
    first, bare = (drawn(session, request_of(run, net, without_control=without)) for without in (False, True))
    assert np.abs(first - live[0]).max() <= 1 < np.abs(first - bare).max()
    again = drawn(session, request_of(run, net))
    assert np.array_equal(first, again)


def test_the_command_line_draws_with_it(workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train(workspace, run)
    command = ["--workspace", str(workspace.root), "sample", run.name, "--prompt", "zrp", "--steps", "2"]
    assert main([*command, "--width", "64", "--without"]) == 0
    assert len(list(workspace.outputs.glob("*_with.png"))) == len(list(workspace.outputs.glob("*_without.png"))) == 1
