"""A trial of three steps: measures time and memory of the form's settings before a long run."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config import RunConfig
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from engine.queue.net_jobs import Trial
from ui.page.context import AppContext
from ui.page.jobs import queue_button
from ui.page.live import Live
from ui.page.messages import job_progress, note
from ui.page.states import Action
from ui.page.view import View
from ui.train.run_form import RunForm


def build_trial(context: AppContext, live: Live, form: RunForm) -> None:
    """Build the button, its help or progress, and its cancel button."""
    with gr.Row(elem_classes="beside", equal_height=True):
        start = gr.Button("Try three steps", scale=0, min_width=150, elem_id="train-trial")
        add = queue_button(live, start, "Queue the trial")
        cancel = gr.Button("Cancel the trial", visible=False, scale=0, min_width=150, elem_id="train-trial-cancel")
        progress = gr.HTML(elem_id="train-trial-progress")

    def start_trial(*values: Any) -> None:
        form.edits.take_all(*values)
        config, _ = context.config_of(context.draft)
        if not context.must_queue:
            context.free_models()
        queued = Trial(config=config.model_dump(mode="json"))
        context.start_job(JobKind.TRIAL, "Trying three steps", trial_job(context, config), queued)

    live.on([start.click, add.click], start_trial, form.inputs)
    live.on(cancel.click, live.job_command("cancel"))
    live.outputs(
        [start, add, progress, cancel],
        lambda view: (_trial_runs(view) and view.snapshot.version, _may_start(view)),
        render_trial,
    )


def trial_job(context: AppContext, config: RunConfig) -> Work:
    """Return the job that takes three optimizer steps, draws a set of preview images, and measures both."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.training.preflight import preflight_job

        return preflight_job(context.workspace, config, context.hardware)(token, emit)

    return work


def _may_start(view: View) -> bool:
    """Return whether a trial can begin now, or wait in the queue: as a run can."""
    return view.train.buttons[Action.START].enabled


def _trial_runs(view: View) -> bool:
    return view.snapshot.kind == JobKind.TRIAL and view.snapshot.alive


def render_trial(view: View) -> list[Any]:
    """Render the button and its twin for the queue, its help or progress, and its cancel button."""
    runs = _trial_runs(view)
    text = "Measures time and memory on your own images before you start a long run. About a minute on a graphics card."
    return [
        gr.Button(interactive=_may_start(view)),
        gr.Button(interactive=_may_start(view)),
        job_progress(view.snapshot) if runs else note(text),
        gr.Button(visible=runs),
    ]
