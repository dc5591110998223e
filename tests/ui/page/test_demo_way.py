"""The steps of the demo follow the files and the running job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from engine.jobs.snapshot import JobSnapshot
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.guide.demo_way import DemoWay, demo_states
from ui.page.jobs import DEMO, DEMO_STEPS, choose_demo, demo_steps
from ui.page.live import Live
from ui.page.states import Readiness, RunFacts, train_view
from ui.page.view import Draft, View

TRAINING = JobSnapshot(kind="train", alive=True, phase="running", total_steps=10)
DONE = RunFacts(Path("run"), "run", 10, 10, 10, "completed")


@pytest.fixture
def fresh(workspace: Workspace) -> View:
    return AppContext(workspace).view()


def test_at_first_only_the_first_button_is_enabled(fresh: View) -> None:
    assert demo_states(fresh) == ("next", "", "")


def test_options_that_were_changed_survive_a_reload(workspace: Workspace) -> None:
    context = AppContext(workspace)
    with gr.Blocks() as page:
        live, way = Live(context, page), DemoWay()
        way.wire(context, live, gr.Tabs())
    numbers = next(
        o for o in live.registered if [c.elem_id for c in o.components] == ["first-count", "first-steps", "first-base"]
    )
    assert numbers.render(context.view())[1] == DEMO_STEPS
    next(f.fn for f in page.fns.values() if f.fn and f.fn.__qualname__.endswith("typed"))(60, 40, "demo")
    assert numbers.render(context.view()) == [60, 40, "demo"]
    chosen = next(f.fn for f in page.fns.values() if f.fn and f.fn.__qualname__.endswith("base_chosen"))
    chosen(60, "demo")  # gradio says so, too, when the list is filled
    assert numbers.render(context.view()) == [60, 40, "demo"]
    chosen(60, "demo-transformer")
    assert numbers.render(context.view()) == [60, demo_steps(context, "demo-transformer"), "demo-transformer"]


def test_each_step_opens_the_next(fresh: View) -> None:
    drawing = replace(fresh, snapshot=JobSnapshot(kind="dataset", alive=True))
    assert demo_states(drawing) == ("now", "", "")
    drawn = replace(fresh, datasets=("demo-circles-8",))
    assert demo_states(drawn) == ("done", "next", "")
    training = replace(drawn, snapshot=TRAINING, train=train_view(TRAINING, None, Readiness()))
    assert demo_states(training) == ("done", "now", "")
    trained = replace(drawn, runs=("run",), shown_run="run", train=train_view(None, DONE, Readiness()))
    assert demo_states(trained) == ("done", "done", "next")


def test_an_unfinished_run_is_resumed_on_the_train_tab(fresh: View) -> None:
    paused = train_view(None, replace(DONE, ending="paused"), Readiness())
    view = replace(fresh, datasets=("demo-circles-8",), runs=("run",), shown_run="run", train=paused)
    assert demo_states(view) == ("done", "unfinished", "")


def test_a_dataset_of_the_users_own_is_not_the_demo(fresh: View) -> None:
    assert demo_states(replace(fresh, datasets=("cats",))) == ("next", "", "")


def test_choosing_the_demo_keeps_the_users_changes_to_its_settings(workspace: Workspace) -> None:
    context = AppContext(workspace)
    context.draft = Draft(DEMO, {"validation": {"pictures": 2}, "data": {"dataset": "demo-circles-8"}})
    choose_demo(context, 20)
    config, origins = context.config_of(context.draft)
    assert (config.model.base, config.data.dataset, config.train.steps) == ("demo", "demo-circles-8", 20)
    assert config.validation.pictures == 2
    assert config.optim.warmup_steps < 20
    choose_demo(context, DEMO_STEPS)
    assert context.draft.preset == DEMO


def test_the_demo_on_the_transformer_has_settings_of_its_own(workspace: Workspace) -> None:
    context = AppContext(workspace)
    steps = demo_steps(context, "demo-transformer")
    choose_demo(context, steps, "demo-transformer")
    config, _ = context.config_of(context.draft)
    assert config.train.steps == steps
    assert config.model.base == "demo-transformer"
    assert config.objective.timestep_sampling == "logit_normal" and config.objective.min_snr_gamma == 0
    choose_demo(context, DEMO_STEPS)
    assert context.config_of(context.draft)[0].model.base == "demo"


def test_changes_to_another_preset_do_not_reach_the_demo(workspace: Workspace) -> None:
    context = AppContext(workspace)
    context.draft = Draft("8gb", {"train": {"batch_size": 3}, "model": {"base": "/models/mine"}})
    choose_demo(context, DEMO_STEPS)
    config, _ = context.config_of(context.draft)
    assert config.model.base == "demo"
    assert config.train.batch_size != 3
