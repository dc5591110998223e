"""Train: set up a run, start it, watch it learn."""

from __future__ import annotations

import itertools
from html import escape
from typing import Any

import gradio as gr

from engine.conditions import registry
from engine.config.toml import launch_command
from engine.errors import UserError
from engine.machine.units import counted
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import duration, note, progress_bar
from ui.page.states import Action, TrainTabState
from ui.page.view import View
from ui.train.cautions import build_cautions, start_or_ask
from ui.train.checkpoints_panel import build_checkpoints, disk_line
from ui.train.evaluate_panel import build_evaluate
from ui.train.own_presets import build_own_presets
from ui.train.resume_form import build_resume_form
from ui.train.run_form import RunForm
from ui.train.several_cards import build_several_cards
from ui.train.verdict import build_verdict
from ui.train.watch import build_watch

NEW_RUN = "A new run"
VARIANTS = {Action.START: "primary", Action.RESUME: "primary", Action.STOP: "stop", Action.DISCARD: "stop"}
SIGNS = {
    TrainTabState.NOT_READY: "○",
    TrainTabState.READY: "○",
    TrainTabState.PAUSED: "Ⅱ",
    TrainTabState.STOPPED: "■",
    TrainTabState.COMPLETED: "✓",
    TrainTabState.FAILED: "!",
    TrainTabState.INTERRUPTED: "!",
}
COMMANDS = {
    Action.PAUSE: "pause",
    Action.STOP: "stop",
    Action.CANCEL: "cancel",
    Action.SAVE_NOW: "save_now",
    Action.SAMPLE_NOW: "preview_now",
}


def build(context: AppContext, live: Live) -> None:
    """Build the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            run = gr.Dropdown([NEW_RUN], value=NEW_RUN, label="Run", elem_id="train-run", interactive=True)
            with gr.Column(elem_id="setup") as setup:
                form = RunForm(context, live)
                build_own_presets(context, live, form)
                build_several_cards(context, live, form)
            about = gr.HTML(elem_id="run-about")
        with gr.Column(scale=3, min_width=420):
            status = gr.HTML(elem_id="train-status")
            with gr.Row(elem_classes="buttons"):
                buttons = {action: _button(action) for action in Action}
            reasons = gr.HTML(elem_id="train-reasons")
            build_cautions(context, live, form)
            build_resume_form(context, live)
            build_verdict(context, live)
            build_watch(context, live)
            build_checkpoints(context, live, run)
            build_evaluate(context, live)

    for action, button in buttons.items():
        inputs = form.inputs if action is Action.START else [run]
        live.on(button.click, _handler(context, live, form, action), inputs)
    live.on(run.input, lambda name: context.show_run("" if name == NEW_RUN else name), [run])
    live.outputs([status], lambda view: (view.train, view.snapshot.version), lambda view: [_status(view)], "fast")
    live.outputs([reasons, *buttons.values()], lambda view: str(view.train.buttons), _buttons)
    live.outputs([run], lambda view: (view.runs, view.shown_run), _runs)
    live.outputs(
        [setup, about],
        lambda view: (view.shown_run, view.train.state, view.history.changes),
        lambda view: [gr.Column(visible=not view.shown_run and not view.train.active), _about(context, view)],
    )


def _button(action: Action) -> Any:
    return gr.Button(
        action.value,
        variant=VARIANTS.get(action, "secondary"),  # type: ignore[arg-type]
        visible=False,
        min_width=120,
        elem_id="train-" + action.name.lower().replace("_", "-"),
    )


def _handler(context: AppContext, live: Live, form: RunForm, action: Action) -> Any:
    """Return what a button does."""
    if action is Action.START:

        def start(*values: Any) -> None:
            form.take_all(*values)
            start_or_ask(context)

        return start
    if action is Action.RESUME:
        return context.resume_training
    if action is Action.NEW:
        return lambda name: context.show_run("")
    if action is Action.DISCARD:

        def discard(name: str) -> None:
            gr.Info(f"Nothing was deleted: the run was moved to {escape(str(context.discard_run(name)))}.")

        return discard
    return live.job_command(COMMANDS[action])


def _status(view: View) -> str:
    """Return headline, hint and progress."""
    train, history = view.train, view.history
    sign = SIGNS.get(train.state, "●")
    kind = "busy" if train.active else train.state.name.lower()
    parts = [f"<h3 class='headline {kind}'><span aria-hidden='true'>{sign}</span> {escape(train.headline)}</h3>"]
    if train.active and history.progress is not None:
        shown = history.progress
        parts.append(progress_bar(shown.done, shown.total, shown.label, duration(history.seconds_left)))
    elif history.total_steps and (train.active or view.shown_run):
        left = duration(history.seconds_left) if train.active else ""
        parts.append(progress_bar(history.step, history.total_steps, "Steps", left))
    waiting = train.state is TrainTabState.WAITING
    parts.append(note(train.hint, "warning" if waiting else "hint"))
    if train.active and not waiting:
        parts.append(note(view.snapshot.warned, "warning"))  # for example a slow disk: the log may be folded
    if train.active and history.last_step is not None:
        step = history.last_step
        seen = counted(step.images_seen, "image")
        parts.append(note(f"{seen} seen · {step.seconds:.2f} s per step · loss {step.loss:.4f}"))
    if train.active:
        parts.append(note("" if waiting else disk_line(history.disk)))  # the free space as of the last checkpoint
        parts.append(note(view.snapshot.keep_awake))
    return "".join(parts)


def _buttons(view: View) -> list[Any]:
    """Render the reasons why buttons are disabled, then each button."""
    shown = view.train.buttons
    reasons = [
        f"<li><b>{escape(action.value)}</b>: {escape(shown[action].reason)}</li>"
        for action in Action
        if shown[action].visible and not shown[action].enabled
    ]
    text = f"<ul class='reasons'>{''.join(reasons)}</ul>" if reasons else ""
    return [text, *(gr.Button(shown[a].title, visible=shown[a].visible, interactive=shown[a].enabled) for a in Action)]


def _runs(view: View) -> list[Any]:
    names = [NEW_RUN, *view.runs]
    chosen = view.shown_run if view.shown_run in view.runs else NEW_RUN
    return [gr.Dropdown(names, value=chosen, interactive=True)]


def _condition_title(run: Run) -> str:
    kind = run.condition.get("type")
    return f"none, it trains {facts_of(run.config).trains}" if kind is None else registry.title(str(kind))


def _about(context: AppContext, view: View) -> str:
    """Return the settings of the shown run."""
    if not view.shown_run:
        return ""
    try:
        run = Run(context.workspace.runs / view.shown_run)
    except UserError as error:
        return note(f"{error.what} {error.why}", "warning")
    settings, train = run.config, run.config.train
    rows = {
        "Base model": settings.model.base,
        "Dataset": settings.data.dataset,
        "Control type": _condition_title(run),
        "Steps": f"{train.steps:,}, {counted(settings.images_per_step, 'image')} each",
        "Resolution": f"{settings.data.resolution} px",
        "Learning rate": f"{settings.optim.learning_rate:g}",
        "Saved every": counted(train.checkpoint_every, "step"),
        "Folder": str(run.folder),
    }
    if run.changes:
        rows["Changed"] = "; ".join(
            f"step {step:,}: {', '.join(change.words for change in together)}"
            for step, together in itertools.groupby(run.changes, lambda change: change.step)
        )
    if run.trained_on:
        rows["Trained on"] = run.trained_on
    if context.hardware.cards > 1 and not run.completed:
        resume = launch_command(context.hardware.cards, "resume", run.name, workspace=context.workspace)
        rows[f"On {context.hardware.cards} graphics cards"] = f"Close the app, then in a terminal: {resume}"
    cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table class='facts'>{cells}</table>"
