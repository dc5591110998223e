"""After a run that teaches the base: one button fills the form of a ControlNet run on what it has taught."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config.presets import unflatten
from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.runs.run import Run
from engine.tuning.facts import facts_of
from ui.page.context import AppContext
from ui.page.jobs import job_controls
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import Draft, View
from ui.train.advice import ENDED

TITLE = "Train a ControlNet on this"
HELP = (
    "Exports the best checkpoint, unless that is done, and fills the form of a new run with the same images and the "
    "base as it is now taught. The images then need condition maps (Conditions tab)."
)


def build_follow_up(context: AppContext, live: Live) -> None:
    """Build the button, visible once the shown run has taught its base something that can be exported."""
    with gr.Column(visible=False, elem_classes="snug") as box:
        gr.HTML(note(HELP))
        with gr.Row(elem_classes="buttons"):
            start = gr.Button(TITLE, elem_id="controlnet-on-this", min_width=240)
            cancel = gr.Button("Cancel", visible=False, elem_id="controlnet-on-this-cancel", min_width=120)
        progress = gr.HTML(elem_id="controlnet-on-this-progress")

    def begin() -> None:
        name = context.view().shown_run
        context.start_job(JobKind.EXPORT, f"Exporting {name} for a ControlNet", follow_up_job(context, name))

    live.on(start.click, begin)
    job_controls(live, JobKind.EXPORT, [start], cancel, progress)
    live.outputs([box], _key, lambda view: [gr.Column(visible=can_follow(context, view))])


def can_follow(context: AppContext, view: View) -> bool:
    """Whether the shown run has ended, teaches its base, and has a checkpoint."""
    if not view.shown_run or view.train.state not in ENDED or not view.history.kept:
        return False
    try:
        facts = facts_of(Run(context.workspace.runs / view.shown_run).config)
    except UserError:
        return False  # the tab says what is wrong with a damaged run
    return facts.drawn_by_prompt and not facts.learned.control and not facts.distilled


def follow_up_job(context: AppContext, name: str) -> Work:
    """Return the job that exports what a run has taught, if need be, and fills the form."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.training.follow_up import controlnet_settings, exported_for_controlnet

        run = Run(context.workspace.run_folder(name))
        path = exported_for_controlnet(context.workspace, run, token, progress_events(emit, "Exporting, stages"))
        emit(Message(f"The next run trains a ControlNet on {path.name}."))
        context.edit_draft(lambda draft: filled(context, draft, controlnet_settings(run, path)))
        context.show_run("")
        return "completed"

    return work


def filled(context: AppContext, draft: Draft, settings: dict[str, Any]) -> Draft:
    """Return a draft of a ControlNet run with the preset of ``draft`` and these settings, by dotted name."""
    return Draft(context.preset_of(draft).name, unflatten(settings), draft.number + 1)


def _key(view: View) -> Any:
    return view.shown_run, view.train.state, view.history.kept
