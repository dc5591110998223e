"""The guide: its two ways, and the checklist of one's own images, which follows what is there."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.make_maps import make_all
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.workspace.paths import Workspace
from engine.workspace.remembered import GUIDE, remembered
from tests.ui.page.test_unfinished import make_run
from ui.page.context import AppContext
from ui.page.guide.card import is_shown, key, render
from ui.page.guide.state import OwnFacts
from ui.page.guide.steps import checklist_html, line_html, next_step, own_steps
from ui.page.states import Readiness, RunFacts, train_view
from ui.page.view import View
from ui.train.bases_panel import choose_base

READY = OwnFacts("cats", 12, 0, 12, "Canny edges", "Stable Diffusion 1.5", True)


def states(view: View) -> dict[str, str]:
    return {step.name: step.state for step in own_steps(view)}


def with_facts(view: View, facts: OwnFacts) -> View:
    return replace(view, guide=replace(view.guide, facts=facts))


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


def test_a_newcomer_is_offered_two_ways_and_may_change_the_mind(context: AppContext) -> None:
    card, title, other, fold, choice, demo, own = render(context.view())
    assert card.visible and "Two ways" in title and choice.visible
    assert not (demo.visible or own.visible or other.visible or fold.visible)
    context.guide.choose("demo")
    card, title, other, fold, choice, demo, own = render(context.view())
    assert demo.visible and other.value == "My own images" and not (choice.visible or own.visible)
    context.guide.choose("own")
    card, title, other, fold, choice, demo, own = render(context.view())
    assert own.visible and other.value == "The demo" and own.value.count("<li") == 5
    assert states(context.view()) == {
        "images": "next", "captions": "later", "obey": "later", "base": "open", "start": "later"
    }  # fmt: skip


def test_it_follows_what_is_there_and_is_one_line_once_there_is_a_dataset(
    workspace: Workspace, context: AppContext, paired_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    import_source(workspace, str(paired_folder / "images"), "cats")
    context.files_changed()
    context.focus_on("cats")
    card, title, other, fold, choice, demo, own = render(context.view())
    assert "guide-line" in title and not own.visible and fold.value == "All steps", "without a click"
    assert states(context.view()) == {
        "images": "done", "captions": "done", "obey": "next", "base": "open", "start": "later"
    }  # fmt: skip
    make_all(Dataset.open(workspace.dataset_folder("cats")), "canny", {})
    context.files_changed()
    choose_base(context, str(tiny_base))
    assert states(context.view()) == {
        "images": "done", "captions": "done", "obey": "done", "base": "done", "start": "next"
    }  # fmt: skip
    says = {step.name: step.says for step in own_steps(context.view())}
    assert says["images"] == "cats: 12 images." and "12 control images" in says["obey"]
    assert says["base"] == f"{tiny_base.name}."
    context.guide.unfold(True)
    assert render(context.view())[-1].visible


def test_a_base_that_disappears_while_it_is_chosen_is_told(
    workspace: Workspace, context: AppContext, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.page.guide.state.LISTING_SECONDS", 0)
    folder = workspace.models / "mine"
    shutil.copytree(tiny_base, folder)
    choose_base(context, "mine")
    assert states(context.view())["base"] == "done"
    shutil.rmtree(folder)
    step = next(step for step in own_steps(context.view()) if step.name == "base")
    assert step.state == "open" and "mine was not found" in step.says
    assert "mine was not found" in context.readiness().missing or not workspace.dataset_names()


def test_the_demos_settings_give_way_when_a_real_base_is_chosen(context: AppContext, tiny_base: Path) -> None:
    context.set_draft("demo", {"data": {"dataset": "cats"}})
    choose_base(context, str(tiny_base))
    assert context.preset_of(context.draft).name != "demo"
    assert context.config_of(context.draft)[0].optim.learning_rate < 1e-3
    choose_base(context, "demo")
    assert context.draft.changes["data"] == {"dataset": "cats"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JobKind.DATASET, "images"),
        (JobKind.CAPTIONS, "captions"),
        (JobKind.CONDITIONS, "obey"),
        (JobKind.BASES, "base"),
    ],
)
def test_the_step_that_is_being_done_is_marked(context: AppContext, kind: JobKind, name: str) -> None:
    view = with_facts(context.view(), OwnFacts("cats", 12))
    view = replace(view, snapshot=JobSnapshot(kind=kind, alive=True))
    assert states(view)[name] == "now" and next_step(own_steps(view)).name == name


def test_captions_that_are_missing_are_told_and_do_not_hold_anybody_up(context: AppContext) -> None:
    view = with_facts(context.view(), replace(READY, without_caption=12))
    assert states(view)["captions"] == "open" and states(view)["start"] == "next"
    assert "12 images have none" in own_steps(view)[1].says
    view = with_facts(context.view(), replace(READY, without_caption=3))
    assert states(view)["captions"] == "done"


def test_training_and_its_end(context: AppContext) -> None:
    own = replace(READY, own_run=True)
    running = JobSnapshot(kind="train", alive=True, phase="running", total_steps=10)
    view = with_facts(context.view(), own)
    training = replace(view, snapshot=running, train=train_view(running, None, Readiness()))
    assert states(training)["start"] == "now" and "Watch it" in line_html(own_steps(training))
    assert states(with_facts(training, READY))["start"] == "next", "the demo's run is not a step of this way"
    beside = replace(view, snapshot=running)  # the form of the next run, while this one trains
    assert states(beside)["start"] == "next" and "Go to Start" in line_html(own_steps(beside))
    done = RunFacts(Path("run"), "run", 10, 10, 10, "completed")
    trained = replace(view, train=train_view(None, done, Readiness()))
    assert states(trained)["start"] == "done" and "Try it" in line_html(own_steps(trained))
    paused = replace(view, train=train_view(None, replace(done, ending="paused"), Readiness()))
    assert own_steps(paused)[-1].focus == "#train-resume"
    demo_run = with_facts(trained, READY)
    assert states(demo_run)["start"] == "next", "the demo's run is not the end of this way"


def test_hiding_it_outlasts_the_session_and_settings_show_it_again(workspace: Workspace, context: AppContext) -> None:
    context.guide.hide()
    assert not is_shown(context.view()) and key(context.view()) is False
    assert remembered(workspace)[GUIDE] == "hidden" and not is_shown(AppContext(workspace).view())
    AppContext(workspace).guide.hide(False)
    assert is_shown(AppContext(workspace).view())


@pytest.mark.parametrize(("dataset", "shown"), [("demo-circles-8", True), ("cats", False)])
def test_who_has_trained_before_is_not_guided_again(workspace: Workspace, dataset: str, shown: bool) -> None:
    folder = make_run(workspace, "done", [("started", 0), ("completed", 100)], saved=100, last=100)
    config = folder / "run.json"
    config.write_text(config.read_text().replace('"dataset": ""', f'"dataset": "{dataset}"'), encoding="utf-8")
    view = AppContext(workspace).view()
    assert is_shown(view) == shown
    if shown:
        assert view.guide.shown_way == "own" and view.guide.folded, "one line about what comes next"


def test_names_in_the_checklist_are_text(context: AppContext) -> None:
    facts = replace(READY, dataset="<b>x", base="<script>y")
    steps = own_steps(with_facts(context.view(), facts))
    for shown in (checklist_html(steps), line_html(steps)):
        assert "<b>x" not in shown and "<script" not in shown


def test_each_button_opens_places_that_exist(context: AppContext) -> None:
    from ui.app import build_app

    app, _ = build_app(context)
    ids = {block.elem_id for block in app.blocks.values() if block.elem_id}
    views = [with_facts(context.view(), facts) for facts in (OwnFacts(), READY)]
    for step in [step for view in views for step in own_steps(view)]:
        named = re.findall(r"#([\w-]+)", f"{step.focus} {step.press}")
        assert {*step.tabs, *named, *([step.unfold] if step.unfold else [])} <= ids, step.name
