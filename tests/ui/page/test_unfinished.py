"""Unfinished runs of earlier sessions are offered at the start; damaged ones do not keep the app from starting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.jobs.events import StepDone
from engine.runs.recorder import Recorder
from engine.runs.run import write_run
from engine.workspace.paths import Workspace
from tests.runs.test_run import make_checkpoint
from ui.app import build_app
from ui.page import close_button, unfinished
from ui.page.context import AppContext
from ui.page.guide.card import is_shown
from ui.page.shown_run import Unfinished


def make_run(workspace: Workspace, name: str, turns: list[tuple[str, int]], saved: int = 0, last: int = 0) -> Path:
    """Write the files of a run of 100 steps."""
    folder = workspace.new_run(name)
    config = RunConfig(name=name).model_dump(mode="json")
    config["train"]["steps"] = 100
    write_run(folder, {"config": config, "origins": {}, "condition": {}})
    recorder = Recorder(folder, lambda event: None)
    recorder.record_status(*turns[0])
    for step in range(1, last + 1):
        recorder(StepDone(step, step, 0.5, 1e-5, 0.1))
    for turn in turns[1:]:
        recorder.record_status(*turn)
    if saved:
        make_checkpoint(folder, saved)
    return folder


@pytest.fixture
def left(workspace: Workspace) -> dict[str, Path]:
    """One run of each ending."""
    return {
        "killed": make_run(workspace, "killed", [("started", 0)], saved=40, last=52),
        "paused": make_run(workspace, "paused", [("started", 0), ("paused", 30)], saved=30, last=30),
        "failed": make_run(workspace, "failed", [("started", 0), ("failed", 7)], last=7),
        "stopped": make_run(workspace, "stopped", [("started", 0), ("stopped", 9)], saved=9, last=9),
        "completed": make_run(workspace, "completed", [("started", 0), ("completed", 100)], saved=100, last=100),
    }


@pytest.mark.answers("An unfinished run was found")
def test_unfinished_runs_are_found_and_described(workspace: Workspace, left: dict[str, Path]) -> None:
    found = {run.folder.split("_")[-1]: run for run in AppContext(workspace).unfinished}
    assert set(found) == {"killed", "paused", "failed"}
    killed = found["killed"]
    assert (killed.ending, killed.saved_step, killed.last_step, killed.total_steps) == ("interrupted", 40, 52, 100)
    words = unfinished.describe(killed)
    assert "was interrupted" in words and "step 40 of 100" in words and "12 steps after that" in words
    assert "It was paused. Saved at step 30 of 100." in unfinished.describe(found["paused"])
    assert "Nothing was saved." in unfinished.describe(found["failed"])


def test_the_card_is_shown_until_a_run_is_trained_or_it_is_hidden(workspace: Workspace, left: dict[str, Path]) -> None:
    context = AppContext(workspace)
    card, heading, more, *rows = unfinished.render_unfinished(context.view())
    assert card.visible and "3 unfinished runs were found" in heading and more == ""
    assert len(rows) == 3 * unfinished.ROWS and all(rows[place].visible for place in (0, 3, 6))
    context.discard_run(left["failed"].name)
    card, heading, _, *rows = unfinished.render_unfinished(context.view())
    assert "2 unfinished" in heading and not rows[6].visible
    context.training_started()
    assert not unfinished.render_unfinished(context.view())[0].visible


def test_a_removed_run_is_not_offered(workspace: Workspace, left: dict[str, Path]) -> None:
    context = AppContext(workspace)
    (left["killed"] / "run.json").unlink()
    context.files_changed()
    assert all("killed" not in str(part) for part in unfinished.render_unfinished(context.view()))


def test_without_unfinished_runs_there_is_no_card(workspace: Workspace) -> None:
    context = AppContext(workspace)
    assert context.unfinished == () and not unfinished.render_unfinished(context.view())[0].visible


def test_runs_that_do_not_fit_are_counted(workspace: Workspace) -> None:
    for number in range(5):
        make_run(workspace, f"run{number}", [("started", 0)], last=1)
    assert "2 more" in unfinished.render_unfinished(AppContext(workspace).view())[2]


def test_newcomers_see_one_card_at_a_time(workspace: Workspace) -> None:
    make_run(workspace, "demo", [("started", 0)], last=1)
    context = AppContext(workspace)
    assert not is_shown(context.view())
    context.unfinished = ()
    assert is_shown(context.view())


@pytest.mark.parametrize(
    "text", ["{", '{"config": {"version": 99}}', *(pytest.param(one, marks=pytest.mark.long) for one in ("[]", "{}"))]
)
def test_a_damaged_run_does_not_keep_the_app_from_starting(workspace: Workspace, text: str) -> None:
    make_run(workspace, "good", [("started", 0)], last=1)
    (workspace.new_run("bad") / "run.json").write_text(text, encoding="utf-8")
    context = AppContext(workspace)
    build_app(context)
    assert [run.folder.split("_")[-1] for run in context.unfinished] == ["good"]
    assert len(context.view().runs) == 2


def test_run_names_are_escaped() -> None:
    words = unfinished.describe(Unfinished("<b>x</b>", "paused", 1, 1, 2))
    assert "<b>x" not in words


def test_the_question_before_closing_says_what_would_end(workspace: Workspace) -> None:
    from engine.jobs.snapshot import JobSnapshot

    idle = close_button.question(JobSnapshot(), closing=False)
    assert "Nothing is running" in idle and "data-closing='asked' data-saved='yes'" in idle
    training: dict[str, Any] = {"alive": True, "kind": "train", "title": "Training <cats>", "total_steps": 400}
    words = close_button.question(JobSnapshot(**training, start_step=3), closing=False)
    assert "Training &lt;cats&gt; is running. It will be" in words and "saved" in words
    stuck = JobSnapshot(**training, phase="waiting", waiting="The checkpoint of step 3 is waiting for disk space.")
    for closes in (False, True):
        words = close_button.question(stuck, closing=closes)
        assert "step 3 is waiting for disk space" in words
        assert "as soon as the run is saved" in words and "Stop" in words
        assert "It will be saved" not in words, "nobody knows when there is room"
        assert "data-saved='perhaps'" in words, "nor what the page may say once the app is gone"
    assert "cancelled" in close_button.question(JobSnapshot(alive=True, kind="dataset", title="Reading"), closing=False)
    context = AppContext(workspace)
    context.shutdown.request()
    view = context.view()
    assert (
        view.closing
        and "data-closing='now' data-saved='yes'>The app is closing" in close_button.render_close_button(view)[0]
    )
    assert json.dumps([button.visible for button in close_button.render_close_button(view)[1:]]) == "[false, false]"
