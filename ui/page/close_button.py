"""The Close button in the header: it asks, then the app saves and ends. Closing or reloading a page ends nothing."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.machine.units import counted
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

MARK_CLOSING = "() => { window.studioClosing = true; return []; }"
"""Set in the browser, because the app may end before the page hears that it is closing."""


def build_button() -> Any:
    """Build the button in the header."""
    return gr.Button("Close the app", size="sm", min_width=120, scale=0, elem_id="close-app")


def build_question(context: AppContext, live: Live, button: Any) -> None:
    """Build the confirmation that the button shows."""
    with gr.Column(visible=False, elem_id="close-box") as box:
        text = gr.HTML(elem_id="close-words")
        with gr.Row(elem_classes="buttons"):
            yes = gr.Button("Close", variant="stop", size="sm", min_width=150, scale=0, elem_id="close-yes")
            no = gr.Button("Keep it open", size="sm", min_width=150, scale=0, elem_id="close-no")

    def ask() -> Any:
        return gr.Column(visible=True)

    def keep() -> Any:
        return gr.Column(visible=False)

    live.on(button.click, ask, None, [box])
    live.on(no.click, keep, None, [box])
    live.on(yes.click, context.shutdown.request, js=MARK_CLOSING)
    live.outputs([text, yes, no], _key, render_close_button)


def _key(view: View) -> Any:
    job = view.snapshot
    return (
        view.closing,
        job.alive,
        job.kind,
        job.title,
        job.waiting,
        len(view.queue.waiting),
    )  # without the step, which would redraw this after every step


def render_close_button(view: View) -> list[Any]:
    training = view.snapshot.is_training
    label = "Save the run and close" if training else "Close"
    asked = not view.closing
    return [
        question(view.snapshot, view.closing, len(view.queue.waiting)),
        gr.Button(label, visible=asked),
        gr.Button(visible=asked),
    ]


def question(job: JobSnapshot, closing: bool, waiting: int = 0) -> str:
    """Return the question, as HTML: what closing would end. ui/page/heartbeat.js reads the heading's attributes.

    Args:
        waiting: how many jobs wait in the queue.
    """
    waits = job.alive and job.phase == "waiting"
    facts = f"data-closing='{'now' if closing else 'asked'}' data-saved='{'perhaps' if waits else 'yes'}'"
    if closing:
        text = "It finishes the current step and saves. This page tells you when it is done."
        if waits:
            text = f"It closes as soon as the run is saved. {job.waiting} Stop on the Train tab ends it at once."
        return f"<h3 {facts}>The app is closing</h3>" + note(text)
    if job.kind == JobKind.TRAIN and waits:
        text = (
            f"{job.title} is waiting for the disk: {job.waiting} The app closes as soon as the run is saved. To "
            "end it at once, press Stop on the Train tab first. You can then resume from the last checkpoint."
        )
    elif job.is_training:
        text = f"{job.title} is running. It will be saved, and you can resume it the next time you start the app."
    elif job.alive:
        text = f"{job.title} is running and will be cancelled. Finished work is kept."
    else:
        text = "Nothing is running. Everything is saved."
    if waiting:
        text += f" {counted(waiting, 'job stays', 'jobs stay')} in the queue until the next start."
    return f"<h3 {facts}>Close ControlNet Studio?</h3><p class='note'>{escape(text)}</p>" + note(
        "To close only this page, close its browser tab: the app keeps running."
    )
