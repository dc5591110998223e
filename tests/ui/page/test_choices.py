"""The list of checkpoints always has a value, and the value is the right checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.runs.checkpoints import list_checkpoints
from engine.workspace.paths import Workspace
from ui.export import export_tab
from ui.page.choices import NEWEST, checkpoints_of, pick_checkpoint
from ui.page.context import AppContext
from ui.try_it import try_tab
from ui.try_it.try_nets import pick_net


def add_checkpoint(run: Path, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step:06d}"
    (folder / "controlnet").mkdir(parents=True)
    (folder / "controlnet" / "config.json").write_text("{}", encoding="utf-8")
    about = {"step": step, "images_seen": 4 * step, "files": {"controlnet/config.json": 2}}
    (folder / "checkpoint.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


def test_a_run_that_has_just_started_is_found_with_its_checkpoints(context: AppContext) -> None:
    assert context.files()[1] == ()  # the pages' listing is made now, and used for two seconds
    run = context.workspace.runs / "new"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    add_checkpoint(run, 5)
    add_checkpoint(run, 10)
    assert [c.step for c in list_checkpoints(run)] == [5, 10]
    assert [c.step for c in checkpoints_of(context, "new")] == [10, 5]
    assert pick_checkpoint(context, "new", None).step == pick_checkpoint(context, "new", NEWEST).step == 10
    assert pick_checkpoint(context, "new", 5).step == 5
    with pytest.raises(UserError, match="no such checkpoint") as gone:
        pick_checkpoint(context, "new", 7)
    assert "at step 7" in gone.value.why


def test_try_it_says_which_damaged_checkpoint_it_leaves_out_and_which_it_uses(context: AppContext) -> None:
    run = context.workspace.runs / "new"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    for step in (5, 10):
        add_checkpoint(run, step)
    assert pick_net(context, "new", NEWEST).notes == ()
    (run / "checkpoints" / "step-000010" / "controlnet" / "config.json").write_text("{", encoding="utf-8")
    net = pick_net(context, "new", NEWEST)
    assert net.name == "step-5" and pick_net(context, "new", 5).notes == ()
    assert "step-000010 cannot be used" in net.notes[0] and "Step 5 is used instead." in net.notes[0]


def test_tabs_that_work_on_runs_say_where_one_is_made_while_there_is_none(context: AppContext) -> None:
    view = context.view()
    assert view.runs == ()
    for shown in (lambda view: str(try_tab.shown_result(view)[1]), export_tab.result_html):
        assert "There is no run yet" in shown(view) and "tab-train-button" in shown(view)
        assert "There is no run yet" not in shown(replace(view, runs=("birds",)))


@pytest.mark.parametrize("name", [None, "", "nothing", "../runs/new", ".."])
def test_an_unknown_run_has_no_checkpoints(context: AppContext, name: str | None) -> None:
    assert checkpoints_of(context, name) == []
    with pytest.raises(UserError):
        pick_checkpoint(context, name, NEWEST)
