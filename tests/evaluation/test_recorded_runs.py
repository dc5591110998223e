"""Runs in the workspace that tell when a run like theirs begins to follow its control images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.estimate.sudden_convergence import Recorded
from engine.evaluation.recorded_runs import recorded_runs
from engine.machine.hardware import Hardware
from engine.runs.run import Run
from engine.training.advisor import advice_for, advice_on
from engine.training.new_run import create_run
from engine.training.start_facts import start_facts
from engine.workspace.paths import Workspace
from tests.evaluation.test_verdict import Curve


@pytest.fixture
def images(workspace: Workspace) -> str:
    return make_demo_set(workspace, "circles", 6).name


def settings(images: str, **sections: dict[str, Any]) -> RunConfig:
    return resolve(("demo", demo_preset().values), ("test", {"data": {"dataset": images}} | sections))[0]


def record(workspace: Workspace, config: RunConfig, curve: str, upto: int = 10_000) -> Run:
    """A run with the checks of a recorded one, among other lines."""
    run = create_run(workspace, config, {})
    lines = [{"step": 1, "loss": 0.1}, *(asdict(check) for check in Curve(curve).upto(upto)), {"step": 5, "scores": {}}]
    (run.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"control_gain"', "utf-8")
    return run


def test_the_first_check_that_follows_is_read(workspace: Workspace, images: str) -> None:
    config = settings(images)
    run = record(workspace, config, "circles")
    assert recorded_runs(workspace, config, "own") == (Recorded(run.name, 50, 40, 8, same_images=True),)
    assert recorded_runs(workspace, config, "own", apart_from=run.name) == ()
    other = make_demo_set(workspace, "circles", 7).name
    assert [one.same_images for one in recorded_runs(workspace, settings(other), "own")] == [False]


def test_runs_that_are_not_alike_or_do_not_follow_are_left_out(workspace: Workspace, images: str) -> None:
    config = settings(images)
    record(workspace, config, "circles", upto=50)  # one check that follows is not enough
    record(workspace, config, "slow")
    record(workspace, settings(images, optim={"learning_rate": 0.007}), "circles")
    record(workspace, settings(images, model={"base": "demo", "control_lora_rank": 8}), "circles")
    assert recorded_runs(workspace, config, "own") == ()
    (record(workspace, config, "circles").folder / "run.json").write_text("{", encoding="utf-8")
    assert recorded_runs(workspace, config, "own") == ()
    assert recorded_runs(workspace, config, "canny") == ()


def test_a_run_that_has_begun_since_is_read_again(workspace: Workspace, images: str) -> None:
    config = settings(images)
    run = record(workspace, config, "circles", upto=30)
    assert recorded_runs(workspace, config, "own") == ()
    text = "".join(json.dumps(asdict(check)) + "\n" for check in Curve("circles").checks)
    Path(run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert len(recorded_runs(workspace, config, "own")) == 1


def test_advice_before_and_during_a_run(workspace: Workspace, images: str) -> None:
    """The demo base is tiny: only the recorded run tells anything."""
    config, card = settings(images), Hardware("cuda", "RTX 3060", 12.0, 16, 8)
    before = advice_for(config, start_facts(workspace, config, card))
    assert before is not None and before.follows is None
    first = record(workspace, config, "circles")
    told = advice_for(config, start_facts(workspace, config, card))
    assert told is not None and told.follows is not None and told.steps == 200
    again = create_run(workspace, config, {})
    during = advice_on(workspace, again, again.history())
    assert (
        during is not None and during.follows is not None and "began to follow after 50 steps" in during.follows.source
    )
    itself = advice_on(workspace, first, first.history())
    assert itself is not None and itself.follows is None or itself is not None and itself.steps == 0
