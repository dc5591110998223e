"""Closing the app from a page: it asks, saves and ends. Closing or reloading a page ends nothing."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.jobs.snapshot import JobKind, JobSnapshot
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.view import View

MARK = "() => { window.studioClosing = true; return []; }"
"""The app may be gone before the page is told that it is closing."""


def build_button() -> Any:
    """The button in the header."""
    return gr.Button("Close the app", size="sm", min_width=120, scale=0, elem_id="close-app")


def build_question(context: AppContext, live: Live, button: Any) -> None:
    """What the button asks before anything ends."""
    with gr.Column(visible=False, elem_id="close-box") as box:
        words = gr.HTML(elem_id="close-words")
        with gr.Row(elem_classes="buttons"):
            yes = gr.Button("Close", variant="stop", size="sm", min_width=150, scale=0, elem_id="close-yes")
            no = gr.Button("Keep it open", size="sm", min_width=150, scale=0, elem_id="close-no")

    def ask() -> Any:
        return gr.Column(visible=True)

    def keep() -> Any:
        return gr.Column(visible=False)

    button.click(ask, None, [box], **NO_PROGRESS)
    no.click(keep, None, [box], **NO_PROGRESS)
    live.refresh_after(yes.click(context.shutdown.request, None, None, js=MARK, **NO_PROGRESS))
    live.outputs([words, yes, no], _key, _render)


def _key(view: View) -> Any:
    job = view.snapshot
    return view.closing, job.alive, job.kind, job.title, job.waiting  # and no step: it would be sent anew with each


def _render(view: View) -> list[Any]:
    training = view.snapshot.is_training
    label = "Save the run and close" if training else "Close"
    return [question(view.snapshot, view.closing), gr.Button(label, visible=not view.closing), gr.Button(
        visible=not view.closing
    )]  # fmt: skip


def question(job: JobSnapshot, closing: bool) -> str:
    """HTML: what closing the app would end. The heading's attributes are for ui/page/heartbeat.js."""
    waits = job.alive and job.phase == "waiting"
    facts = f"data-closing='{'now' if closing else 'asked'}' data-saved='{'perhaps' if waits else 'yes'}'"
    if closing:
        words = "It finishes the step and saves. This page then says that it is."
        if waits:
            words = f"It closes as soon as the run could be saved. {job.waiting} Stop on the Train tab ends it at once."
        return f"<h3 {facts}>The app is closing</h3>" + note(words)
    if job.kind == JobKind.TRAIN and waits:
        words = (
            f"{job.title} waits for the disk: {job.waiting} The app closes as soon as the run could be saved. To end "
            "it at once, press Stop on the Train tab first; it then resumes from its last checkpoint."
        )
    elif job.is_training:
        words = f"{job.title} is running. It will be saved, and the next start offers to resume it."
    elif job.alive:
        words = f"{job.title} is running and will be cancelled; what it has finished is kept."
    else:
        words = "Nothing is running. All that was made is on the disk."
    return f"<h3 {facts}>Close ControlNet Studio?</h3><p class='note'>{escape(words)}</p>" + note(
        "To leave only this page, close its tab: the app and its work go on."
    )
