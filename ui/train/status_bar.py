"""The slim bar at the top of the Train tab, which stays in view: the run, what it does, time left, buttons."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.machine.units import counted
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import duration, note
from ui.page.states import Action, TrainTabState
from ui.page.view import View
from ui.train.cautions import start_or_ask
from ui.train.checkpoints_panel import disk_line
from ui.train.run_form import RunForm

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


class StatusBar:
    """The bar. ``run`` is the list of runs. Call ``wire`` when the form is built."""

    def __init__(self) -> None:
        with gr.Row(elem_id="train-bar", equal_height=False):
            self.run = gr.Dropdown(
                [NEW_RUN],
                value=NEW_RUN,
                label="Run",
                show_label=False,
                container=False,
                scale=0,
                min_width=230,
                interactive=True,
                elem_id="train-run",
            )
            self.status = gr.HTML(elem_id="train-status", min_width=280)
            with gr.Row(elem_classes="buttons", elem_id="train-buttons", scale=0):
                self.buttons = {action: _button(action) for action in Action}
        self.notes = gr.HTML(elem_id="train-notes")
        self.reasons = gr.HTML(elem_id="train-reasons")

    def wire(self, context: AppContext, live: Live, form: RunForm) -> None:
        """Let the bar follow the run, and its buttons do what they say."""
        for action, button in self.buttons.items():
            inputs = form.inputs if action is Action.START else [self.run]
            live.on(button.click, button_handler(context, live, form, action), inputs)
        live.on(self.run.input, lambda name: context.show_run("" if name == NEW_RUN else name), [self.run])
        live.outputs(
            [self.status, self.notes],
            lambda view: (view.train, view.snapshot.version),
            lambda view: [status_html(view), notes_html(view)],
            "fast",
        )
        live.outputs([self.reasons, *self.buttons.values()], lambda view: str(view.train.buttons), _buttons)
        live.outputs([self.run], lambda view: (view.runs, view.shown_run), _runs)


def _button(action: Action) -> Any:
    return gr.Button(
        action.value,
        variant=VARIANTS.get(action, "secondary"),  # type: ignore[arg-type]
        visible=False,
        min_width=100,
        scale=0,
        elem_id="train-" + action.name.lower().replace("_", "-"),
    )


def button_handler(context: AppContext, live: Live, form: RunForm, action: Action) -> Any:
    """Return what a button does."""
    if action is Action.START:

        def start(*values: Any) -> None:
            form.edits.take_all(*values)
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


def status_html(view: View) -> str:
    """Return a line with the run's state and the time left, a progress bar below it, and a hint."""
    train = view.train
    sign = SIGNS.get(train.state, "●")
    kind = "busy" if train.active else train.state.name.lower()
    head = f"<h3 class='headline {kind}'><span aria-hidden='true'>{sign}</span> {escape(train.headline)}</h3>"
    figures, bar = _progress(view)
    parts = [f"<div class='line'>{head}<span class='hint'>{escape(' · '.join(figures))}</span></div>{bar}"]
    if train.state is TrainTabState.WAITING:
        parts.append(note(train.hint, "warning"))
    elif not train.active and train.state is not TrainTabState.READY:  # then the forecast beside the form says it
        parts.append(note(train.hint))
    return "".join(parts)


def notes_html(view: View) -> str:
    """Return notes worth knowing about a run in progress, which stand below the bar."""
    train, snapshot = view.train, view.snapshot
    if not train.active:
        return ""
    waiting = train.state is TrainTabState.WAITING
    warned = "" if waiting else snapshot.warned  # for example a slow disk: the log may be folded
    disk = "" if waiting else disk_line(view.history.disk)  # the free space as of the last checkpoint
    facts = "" if waiting else train.hint, disk, snapshot.keep_awake
    return note(warned, "warning") + note(" · ".join(text.rstrip(".") for text in facts if text))


def _progress(view: View) -> tuple[list[str], str]:
    """Return figures of the run's progress, and its bar as HTML."""
    train, history = view.train, view.history
    if train.active and history.progress is not None:
        done, total, label = history.progress.done, history.progress.total, history.progress.label
    elif history.total_steps and (train.active or view.shown_run):
        done, total, label = history.step, history.total_steps, "Steps"
    else:
        return [], ""
    share = min(1.0, done / total) if total else 0.0
    named = train.active and label == "Steps"  # in the headline already
    figures = [f"{share:.0%}" if named else f"{label}: {done:,g} of {total:,g} ({share:.0%})"]
    if train.active:
        left = duration(history.seconds_left)
        figures += [f"{left} left"] if left else []
        if history.last_step is not None:
            step = history.last_step
            figures.append(
                f"{counted(step.images_seen, 'image')} seen · {step.seconds:.2f} s per step · loss {step.loss:.4f}"
            )
    bar = (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total:g}" aria-valuenow="{done:g}">'
        f'<div style="width:{share:.1%}"></div></div>'
    )
    return figures, bar


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
