"""The advice on a run: what to expect, what to set, where figures come from; after its end, the run to try next."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.estimate.advice import LENGTH, Line
from engine.evaluation.run_verdict import verdict_of
from engine.runs.run import Run
from engine.training.advisor import advice_on
from engine.training.next_run import NextRun, after
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.states import TrainTabState
from ui.page.view import View
from ui.train.resume_form import begin_again

ENDED = (TrainTabState.COMPLETED, TrainTabState.STOPPED)
WHILE_IT_GOES = 2
"""Pieces of advice that are shown then, the first ones: the status bar has the rest."""
HOPELESS = ("ignored", "broken", "worse")
"""Verdicts after which the advice on length does not hold."""


def advice_table(lines: Sequence[Line]) -> str:
    """Return a row for each piece of advice, with its source below it."""
    rows = "".join(
        f"<tr><th>{escape(line.title)}</th><td>{escape(line.text)}"
        + (f"<div class='hint'>{escape(line.source)}</div>" if line.source else "")
        + "</td></tr>"
        for line in lines
    )
    return f"<table class='facts advice'>{rows}</table>" if rows else ""


def short_table(lines: Sequence[Line], button: str = "") -> str:
    """Return a row for each piece of advice, and the sources folded below them.

    Args:
        button: HTML, behind the advised length.
    """
    rows = "".join(
        f"<tr><th>{escape(line.title)}</th><td>{escape(line.text)}{button if line.title == LENGTH else ''}</td></tr>"
        for line in lines
    )
    sources = "".join(
        f"<p class='hint'><b>{escape(line.title)}</b>: {escape(line.source)}</p>" for line in lines if line.source
    )
    folded = f"<details class='hint'><summary>Where these figures come from</summary>{sources}</details>"
    return f"<table class='facts advice'>{rows}</table>{folded if sources else ''}" if rows else ""


def build_advice(context: AppContext, live: Live) -> None:
    """Build what to expect of the shown run while it goes; once it has ended, the next run and its button."""
    shown = gr.HTML(elem_id="run-advice")
    button = gr.Button(visible=False, variant="primary", scale=0, min_width=260, elem_id="next-run")
    offered = gr.State(None)  # (the run's name, what to try), as this page shows it
    live.on(button.click, lambda offer: take(context, *offer), [offered])
    live.outputs([shown, button, offered], _key, lambda view: render(context, view))


def take(context: AppContext, run: str, offer: NextRun) -> None:
    """Fill the form of a new run as offered, or resume the run that has ended.

    Raises:
        UserError: the run cannot be opened, or not be resumed.
    """
    if offer.resumes:
        context.resume_training(run, offer.settings)
    else:
        begin_again(context, run, offer.settings)


def render(context: AppContext, view: View) -> list[Any]:
    """Render the advice, the button and what it offers."""
    nothing = ["", gr.Button(visible=False), None]
    if not view.shown_run or not view.history.measured:
        return nothing
    try:
        run = Run(context.workspace.runs / view.shown_run)
    except UserError:
        return nothing  # the tab says what is wrong with a damaged run
    if view.train.state in ENDED:
        offer = after(context.workspace, run, view.history, context.hardware)
        if offer is None:
            return nothing
        text = f"<h3>What to try next</h3><p class='facts'>{escape(offer.why)}</p>"
        return [text, gr.Button(offer.title, visible=True), (run.name, offer)]
    verdict, advice = verdict_of(view.history), advice_on(context.workspace, run, view.history)
    if advice is None or verdict is None or verdict.kind in HOPELESS:
        return nothing
    return [f"<h3>What to expect</h3>{advice_table(advice.lines[:WHILE_IT_GOES])}", *nothing[1:]]


def _key(view: View) -> Any:
    pace = f"{view.history.seconds_per_step:.1g}"  # one digit: times need not follow each step
    return view.shown_run, view.train.state in ENDED, view.history.measured[-1:], view.history.changes, pace
