"""Resume the shown run with other settings: a form of the settings that may be changed, and from which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from engine import config
from engine.config import SECTIONS
from engine.config.presets import flatten, unflatten
from engine.errors import UserError
from engine.families.files import configs_of
from engine.runs.run import Run
from ui.page.context import AppContext
from ui.page.form import marks, parse_value, widget
from ui.page.live import Live
from ui.page.messages import note
from ui.page.states import TrainTabState
from ui.page.view import Draft, View
from ui.train.settings_panel import not_applicable

HELP = (
    "Changes apply from the next step, which the charts mark. The optimizer's state is kept unless you choose "
    "another optimizer. To change anything else, start a new run."
)
MEMORY_HELP = (
    "Each step keeps the same images: the batch size can be divided evenly, and gradient accumulation rises to match."
)
CAN_RESUME = (
    TrainTabState.PAUSED,
    TrainTabState.STOPPED,
    TrainTabState.COMPLETED,
    TrainTabState.FAILED,
    TrainTabState.INTERRUPTED,
)
NEWEST = -1
"""In the list of checkpoints: the newest one."""


def build_resume_form(context: AppContext, live: Live) -> None:
    """Build the folded form. It is visible while the shown run can be resumed."""
    settings: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    with gr.Accordion("Resume with other settings", open=False, visible=False, elem_id="resume-settings") as box:
        gr.HTML(note(HELP))
        _widgets("course", settings, columns, 200)
        with gr.Accordion("Less memory, slower steps", open=False, elem_id="resume-memory"):
            gr.HTML(note(MEMORY_HELP))
            _widgets("memory", settings, columns, 260)
        from_step = gr.Dropdown(
            [("the newest", NEWEST)],
            value=NEWEST,
            label="From checkpoint",
            info="Choose an earlier one to go back: later checkpoints are set aside, and their steps are "
            "trained again.",
            elem_id="resume-from-step",
            interactive=True,
        )
        with gr.Row():
            resume = gr.Button("Resume with these settings", variant="primary", elem_id="resume-changed")
            again = gr.Button("New run with its settings", elem_id="resume-new-run")
        shown = gr.State("")  # the run whose values this page shows, even if another is shown elsewhere by now

    def go_on(name: str, step: int, *raw: Any) -> None:
        changes = {dotted: parse_value(dotted, value) for dotted, value in zip(settings, raw, strict=True)}
        context.resume_training(name, changes, None if step == NEWEST else int(step))

    live.on(resume.click, go_on, [shown, from_step, *settings.values()])
    live.on(again.click, lambda name: begin_again(context, name), [shown])
    outputs = [box, shown, from_step, *columns.values(), *settings.values()]
    live.outputs(outputs, _key, lambda view: _render(context, view, tuple(columns), tuple(settings)))


def _widgets(kind: config.MayChange, settings: dict[str, Any], columns: dict[str, Any], width: int) -> None:
    """Build the boxes of the settings that may change as ``kind`` says.

    Args:
        settings: they are added here.
        columns: so are the columns of those that have a meaning for some kinds of run only.
    """
    default = flatten(config.RunConfig().model_dump())
    with gr.Row(equal_height=False):
        for dotted in (name for name, its in config.changeable().items() if its == kind):
            field = config.field_of(dotted)
            with gr.Column(min_width=width) as column:
                elem_id = "resume-" + dotted.replace(".", "-")
                settings[dotted] = widget(field, default[dotted], elem_id, of_draft=False)
            if marks(field):
                columns[dotted] = column


def begin_again(context: AppContext, name: str, other: Mapping[str, Any] | None = None) -> None:
    """Put the settings that a run has now into the form of a new run, and show that.

    Args:
        other: values in place of the run's, by dotted name.

    Raises:
        UserError: the run cannot be opened.
    """
    own = Run(context.workspace.run_folder(name)).config
    preset = context.preset_of(context.draft).name
    chosen = {"model.base": own.model.base, "tuning.what": own.tuning.what}
    usual = flatten(context.config_of(Draft(preset, unflatten(chosen)))[0].model_dump())
    values = {**flatten(own.model_dump(include={"name", *SECTIONS})), **(other or {})}
    changes = {dotted: value for dotted, value in values.items() if value != usual[dotted] or dotted in chosen}
    context.set_draft(preset, unflatten(changes), refresh_forms=True)
    context.show_run("")


def _key(view: View) -> Any:
    return view.shown_run, view.train.state in CAN_RESUME, view.history.kept, view.history.changes


def _render(context: AppContext, view: View, columns: Sequence[str], settings: Sequence[str]) -> list[Any]:
    """Render the form with the settings that the run has now.

    Args:
        columns: the settings that have a column of their own to hide. settings: all of them.
    """
    hidden = [gr.Accordion(visible=False), "", *[gr.skip()] * (1 + len(columns) + len(settings))]
    if not view.shown_run or view.train.state not in CAN_RESUME:
        return hidden
    try:
        run = Run(context.workspace.runs / view.shown_run)
    except UserError:
        return hidden  # a damaged run; the tab says what is wrong
    values = flatten(run.config.model_dump())
    without = not_applicable(run.config.tuning, configs_of(context.workspace, run.config.model.base).facts)
    steps = [checkpoint.step for checkpoint in reversed(run.checkpoints()) if checkpoint.resumable]
    choices = [(f"the newest (step {steps[0]:,})" if steps else "the newest", NEWEST)]
    choices += [(f"step {step:,}", step) for step in steps[1:]]
    choices += [("from scratch", 0)]
    return [
        gr.Accordion(visible=True),
        run.name,
        gr.Dropdown(choices, value=NEWEST),
        *(gr.Column(visible=not set(marks(config.field_of(one))) & set(without)) for one in columns),
        *(values[dotted] for dotted in settings),
    ]
