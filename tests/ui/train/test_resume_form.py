"""The form of a resume holds exactly the settings that may be changed, with the values that the run has now."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from engine import config
from engine.config.presets import flatten
from engine.errors import UserError
from engine.jobs.events import Message
from engine.runs.changes import record_changes
from engine.runs.run import Run
from engine.training import job
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory
from ui.page.context import AppContext
from ui.page.live import Live
from ui.train.resume_form import NEWEST, begin_again, build_resume_form
from ui.train.run_facts import run_facts

CHANGED = {"optim.learning_rate": 5e-4, "train.steps": 12}


@pytest.fixture
def run(new_run: RunFactory) -> Run:
    made = new_run()
    record_changes(made.folder, 0, made.config, CHANGED)
    return Run(made.folder)


def build(context: AppContext) -> Live:
    with gr.Blocks() as demo:
        live = Live(context, demo)
        build_resume_form(context, live)
    return live


def shown(context: AppContext, live: Live) -> tuple[bool, str, dict[str, Any]]:
    """Whether the form is visible, of which run, and its values by the id of their box."""
    (outputs,) = live.registered
    view = context.view()
    visible, name, *values = outputs.render(view)
    ids = [component.elem_id or "" for component in outputs.components[2:]]
    boxes = {one: value for one, value in zip(ids, values, strict=True) if one and one != "resume-from-step"}
    return bool(visible.visible), name, boxes


def hidden(context: AppContext, live: Live) -> set[str]:
    """The ids of the boxes whose columns are hidden."""
    (outputs,) = live.registered
    pairs = zip(outputs.components, outputs.render(context.view()), strict=True)
    columns = [one for one, value in pairs if isinstance(value, gr.Column) and not value.visible]
    return {str(box.elem_id) for box in outputs.components if box.parent is not None and box.parent.parent in columns}


def test_it_holds_what_may_change_as_the_run_has_it_now(ready_workspace: Workspace, run: Run) -> None:
    context = AppContext(ready_workspace)
    context.show_run(run.name)
    live = build(context)
    visible, name, values = shown(context, live)
    assert visible and name == run.name
    assert set(values) == {"resume-" + dotted.replace(".", "-") for dotted in config.changeable()}
    assert values["resume-optim-learning_rate"] == 5e-4 and values["resume-train-steps"] == 12
    assert "step 0: learning rate 0.001 → 0.0005, steps 6 → 12" in run_facts(context, context.view())
    context.show_run("")
    assert shown(context, live)[:2] == (False, "")


@pytest.mark.parametrize(("what", "preserve"), [("controlnet", "auto"), ("lora", "auto"), ("lora", "answers")])
def test_a_setting_without_a_meaning_for_the_shown_run_is_hidden(
    what: str, preserve: str, ready_workspace: Workspace, new_run: RunFactory
) -> None:
    context = AppContext(ready_workspace)
    context.set_draft(context.draft.preset, {"tuning": {"what": "lora"}})
    context.show_run(new_run(**{"tuning.what": what, "tuning.preserve": preserve}).name)
    live = build(context)
    preserves = set() if preserve == "answers" else {"resume-tuning-preserve_weight"}
    never = {"resume-train-modulation_storage", "resume-tuning-lcm_steps"}
    assert hidden(context, live) == never | preserves, "whatever the form says"
    boxes = {one.elem_id: one for one in live.registered[0].components}
    assert "only-preserving" not in boxes["resume-tuning-preserve_weight"].elem_classes


def test_what_is_entered_is_what_the_run_goes_on_with(
    ready_workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(workspace: Workspace, started: Run) -> Any:
        def train(token: Any, emit: Any) -> str:
            emit(Message(f"{started.config.train.precision} {started.config.train.batch_size}"))
            return "paused"

        return train

    monkeypatch.setattr(job, "training_job", work)
    context = AppContext(ready_workspace)
    context.show_run(run.name)
    live = build(context)
    go_on = next(handler for handler in live.events if handler.__name__ == "go_on")
    entered = {**shown(context, live)[2], "resume-train-precision": "bf16", "resume-train-batch_size": 1.0}
    go_on(run.name, NEWEST, *entered.values())
    context.runner.wait()
    assert "bf16 1" in context.runner.snapshot.log
    assert [(change.step, change.words) for change in Run(run.folder).changes][-3:] == [
        (0, "batch size 2 → 1"),
        (0, "precision fp32 → bf16"),
        (0, "gradient accumulation 1 → 2"),
    ]
    with pytest.raises(UserError, match="not into parts of 7"):
        go_on(run.name, NEWEST, *{**entered, "resume-train-batch_size": 7}.values())


def test_a_new_run_begins_with_all_settings_of_this_one(ready_workspace: Workspace, run: Run) -> None:
    context = AppContext(ready_workspace)
    before = context.draft.number
    begin_again(context, run.name)
    started, _ = context.config_of(context.draft)
    assert flatten(started.model_dump()) == flatten(run.config.model_dump())
    assert context.draft.number > before and context.view().shown_run == ""
