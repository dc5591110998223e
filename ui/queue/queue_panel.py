"""The button in the header that says how many jobs wait, and the panel that it opens."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.queueing import percent_of
from ui.page.view import View
from ui.queue.queue_html import ON_LOAD, badge, list_html, results_html

HELD = "The queue is on hold: these jobs are left from an earlier session, or a job was paused."
NOTIFY = (
    "<div class='queue-notify'><button type='button' onclick='studioNotify()'>Notify me when all jobs are "
    "done</button> <span class='hint' role='status'></span></div>"
)
"""Its script, which also fills the text, is ui/page/title.js."""


def build_button() -> Any:
    """Build the button in the header."""
    return gr.Button("Queue", size="sm", min_width=90, scale=0, elem_id="queue-button")


def build_panel(context: AppContext, live: Live, button: Any) -> None:
    """Build the panel that the button opens and closes, on the page where it was pressed."""
    opened = gr.State(False)
    with gr.Column(visible=False, elem_id="queue-box") as box:
        gr.HTML("<h2>Queue</h2>")
        jobs = gr.HTML(js_on_load=ON_LOAD, elem_id="queue-jobs")
        held = gr.HTML(elem_id="queue-held")
        with gr.Row(elem_classes="buttons"):
            go_on = gr.Button(
                "Run the queue", variant="primary", visible=False, scale=0, min_width=180, elem_id="queue-run"
            )
        results = gr.HTML(elem_id="queue-results")
        with gr.Row(elem_classes="buttons"):
            gr.HTML(NOTIFY)
            clear = gr.Button(
                "Clear this list", size="sm", visible=False, scale=0, min_width=140, elem_id="queue-clear"
            )
            close = gr.Button("Close", size="sm", scale=0, min_width=100, elem_id="queue-close")

    def toggle(shown: bool) -> list[Any]:
        return [not shown, gr.Column(visible=not shown)]

    def hide() -> list[Any]:
        return [False, gr.Column(visible=False)]

    live.on(button.click, toggle, [opened], [opened, box])
    live.on(close.click, hide, None, [opened, box])
    live.on(go_on.click, lambda: context.queue.go_on())
    live.on(clear.click, lambda: context.queue.folder.clear_results())
    live.on(jobs.click, row_handler(context))
    live.outputs([button], lambda view: badge(view.queue), _badge)
    live.outputs([jobs], _key, lambda view: [list_html(view.snapshot, view.queue)])
    live.outputs([held, go_on], _holds, _held)
    live.outputs(
        [results, clear],
        lambda view: view.queue.results,
        lambda view: [results_html(view.queue), gr.Button(visible=bool(view.queue.results))],
    )


def row_handler(context: AppContext) -> Any:
    """Return the handler of the rows' buttons."""

    def act(event: gr.EventData) -> None:
        action, id = str(event.action), str(getattr(event, "id", ""))
        folder = context.queue.folder
        places = {entry.id: place for place, entry in enumerate(folder.waiting(), 1)}
        if action == "remove":
            folder.remove(id)
        elif action in ("pause", "stop", "cancel"):
            getattr(context.runner, action)()
        elif action in ("up", "down"):
            folder.move(id, places.get(id, 1) + (1 if action == "down" else -1))
        else:
            raise UserError("This cannot be done.", f"The page asked for “{action}”.", "Reload the page.")

    return act


def _key(view: View) -> Any:
    """Changes with the queue, and every few seconds with the running job: a step of it is no reason to redraw."""
    job = view.snapshot
    left = None if job.seconds_left is None else round(job.seconds_left, -1)
    percent = percent_of(job) or 0
    return view.queue.entries, job.alive, job.title, job.asked, left, percent // 2


def _badge(view: View) -> list[Any]:
    return [gr.Button(badge(view.queue), variant="primary" if _holds(view) else "secondary")]


def _holds(view: View) -> bool:
    return view.queue.held and bool(view.queue.waiting)


def _held(view: View) -> list[Any]:
    holds = _holds(view)
    return [note(HELD, "warning") if holds else "", gr.Button(visible=holds)]
