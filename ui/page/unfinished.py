"""The card of unfinished runs, shown when the app starts: resume them, open them, or move them away."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.machine.units import counted
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.shown_run import Unfinished
from ui.page.view import View

ROWS = 3
ENDED = {
    "interrupted": "It was interrupted: a power cut, a crash, or not enough memory.",
    "paused": "It was paused.",
    "failed": "It ended with an error. The log on the Train tab says which one.",
}


def build(context: AppContext, live: Live, tabs: Any) -> None:
    """Build the card above the tabs. It disappears when a run is trained, or when the user hides it."""
    with gr.Column(elem_id="unfinished", elem_classes="start-card", visible=False) as card:
        with gr.Row(elem_classes="card-head"):
            heading = gr.HTML()
            hide = gr.Button("Not now", size="sm", min_width=90, scale=0, elem_id="unfinished-hide")
        rows = [_row(context, live, tabs, place) for place in range(ROWS)]
        more = gr.HTML()

    def hide_card() -> None:
        context.unfinished = ()

    live.on(hide.click, hide_card)
    components = [component for row in rows for component in row]
    live.outputs([card, heading, more, *components], _key, render_unfinished)


def _row(context: AppContext, live: Live, tabs: Any, place: int) -> tuple[Any, ...]:
    """Build the row of one run: what it is, and its buttons."""
    with gr.Row(visible=False, elem_classes="unfinished-run") as row:
        text = gr.HTML(elem_id=f"unfinished-words-{place + 1}")
        resume = gr.Button("Resume", size="sm", variant="primary", min_width=90, scale=0, elem_id=f"resume-{place + 1}")
        look = gr.Button("Look at it", size="sm", min_width=90, scale=0, elem_id=f"look-{place + 1}")
        discard = gr.Button("Discard", size="sm", min_width=90, scale=0, elem_id=f"discard-{place + 1}")
        name = gr.State("")  # the run that this page shows here, even if another has moved up since

    def resume_run(name: str) -> Any:
        context.resume_training(name)
        return gr.Tabs(selected="train")

    def show(name: str) -> Any:
        context.show_run(name)
        return gr.Tabs(selected="train")

    def discard_run(name: str) -> None:
        gr.Info(f"Nothing was deleted: the run was moved to {escape(str(context.discard_run(name)))}.")

    live.on(resume.click, resume_run, [name], [tabs], refresh=True)
    live.on(look.click, show, [name], [tabs], refresh=True)
    live.on(discard.click, discard_run, [name])
    return row, text, name


def _key(view: View) -> Any:
    return _shown(view)


def _shown(view: View) -> tuple[Unfinished, ...]:
    return tuple(run for run in view.unfinished if run.folder in view.runs)


def render_unfinished(view: View) -> list[Any]:
    runs = _shown(view)
    count = counted(len(runs), "unfinished run was", "unfinished runs were")
    updates: list[Any] = [gr.Column(visible=bool(runs)), f"<h2>{count} found</h2>", _rest(len(runs))]
    for place in range(ROWS):
        run = runs[place] if place < len(runs) else None
        updates += [gr.Row(visible=run is not None), describe(run) if run else "", run.folder if run else ""]
    return updates


def _rest(count: int) -> str:
    return f"<p class='hint'>{count - ROWS:,} more in the list of runs on the Train tab.</p>" if count > ROWS else ""


def describe(run: Unfinished) -> str:
    """Return HTML that says which run it is, how it ended, and what resuming it means."""
    saved = f"Saved at step {run.saved_step:,} of {run.total_steps:,}." if run.saved_step else "Nothing was saved."
    lost = max(0, run.last_step - run.saved_step)
    which = "after that" if run.saved_step else "so far"
    again = f" The {counted(lost, 'step')} {which} will be trained again." if lost else ""
    return (
        f"<p class='step-head'><b>{escape(run.folder)}</b></p>"
        f"<p class='hint'>{escape(ENDED[run.ending])} {saved}{again}</p>"
    )
