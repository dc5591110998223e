"""The card of unfinished runs: what an earlier sitting left is offered at the start: resume, look, set aside."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.training.job import resume_training
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import counted
from ui.page.shown_run import Unfinished
from ui.page.view import View

ROWS = 3
ENDED = {
    "interrupted": "It ended without a word: the computer was switched off, the app was ended, or memory ran out.",
    "paused": "It was paused.",
    "failed": "It ended with an error; its log on the Train tab says which.",
}


def build(context: AppContext, live: Live, tabs: Any) -> None:
    """The card above the tabs; it goes away when a run is trained, or when it is hidden."""
    with gr.Column(elem_id="unfinished", elem_classes="start-card", visible=False) as card:
        with gr.Row(elem_classes="card-head"):
            heading = gr.HTML()
            hide = gr.Button("Not now", size="sm", min_width=90, scale=0, elem_id="unfinished-hide")
        rows = [_row(context, live, tabs, place) for place in range(ROWS)]
        more = gr.HTML()

    def hide_card() -> None:
        context.unfinished = ()

    live.refresh_after(hide.click(hide_card, None, None, **NO_PROGRESS))
    places = [part for row in rows for part in row]
    live.outputs([card, heading, more, *places], _key, _render)


def _row(context: AppContext, live: Live, tabs: Any, place: int) -> tuple[Any, ...]:
    """One run: its words, and what can be done with it."""
    with gr.Row(visible=False, elem_classes="unfinished-run") as row:
        words = gr.HTML(elem_id=f"unfinished-words-{place + 1}")
        resume = gr.Button("Resume", size="sm", variant="primary", min_width=90, scale=0, elem_id=f"resume-{place + 1}")
        look = gr.Button("Look at it", size="sm", min_width=90, scale=0, elem_id=f"look-{place + 1}")
        discard = gr.Button("Set aside", size="sm", min_width=90, scale=0, elem_id=f"discard-{place + 1}")
        name = gr.State("")  # the run that this page was shown here, whatever has moved up since

    def go_on(name: str) -> Any:
        context.free_models()
        resume_training(context.runner, context.workspace, context.workspace.run_folder(name))
        context.training_started()
        return gr.Tabs(selected="train")

    def show(name: str) -> Any:
        context.show_run(name)
        return gr.Tabs(selected="train")

    def set_aside(name: str) -> None:
        gr.Info(f"The run was moved to {escape(str(context.discard_run(name)))}.")

    live.refresh_after(resume.click(context.catch_errors(go_on), [name], [tabs], **NO_PROGRESS))
    live.refresh_after(look.click(context.catch_errors(show), [name], [tabs], **NO_PROGRESS))
    live.refresh_after(discard.click(context.catch_errors(set_aside, has_outputs=False), [name], None, **NO_PROGRESS))
    return row, words, name


def _key(view: View) -> Any:
    return _shown(view)


def _shown(view: View) -> tuple[Unfinished, ...]:
    return tuple(run for run in view.unfinished if run.folder in view.runs)


def _render(view: View) -> list[Any]:
    runs = _shown(view)
    count = counted(len(runs), "unfinished run was", "unfinished runs were")
    updates: list[Any] = [gr.Column(visible=bool(runs)), f"<h2>{count} found</h2>", _rest(len(runs))]
    for place in range(ROWS):
        run = runs[place] if place < len(runs) else None
        updates += [gr.Row(visible=run is not None), words_of(run) if run else "", run.folder if run else ""]
    return updates


def _rest(count: int) -> str:
    return f"<p class='hint'>{count - ROWS:,} more: in the list of runs on the Train tab.</p>" if count > ROWS else ""


def words_of(run: Unfinished) -> str:
    """HTML: which run, how it ended, and what resuming it means."""
    saved = f"Saved at step {run.saved_step:,} of {run.total_steps:,}." if run.saved_step else "Nothing was saved yet."
    lost = max(0, run.last_step - run.saved_step)
    which = "after that" if run.saved_step else "that it had done"
    again = f" The {counted(lost, 'step', 'steps')} {which} will be trained again." if lost else ""
    return (
        f"<p class='step-head'><b>{escape(run.folder)}</b></p>"
        f"<p class='hint'>{escape(ENDED[run.ending])} {saved}{again}</p>"
    )
