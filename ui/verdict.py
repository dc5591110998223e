"""Does it work? The verdict in a sentence with its evidence, and the charts behind it. Used by the Train tab."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.verdict import Facts, Kind, Verdict, facts_of, judge
from engine.jobs.snapshot import JobSnapshot
from engine.runs import Run
from ui.chart import line_chart
from ui.context import AppContext
from ui.curves import BEGINS, GAIN, HELD_OUT, SAVED, TRAINED, fixed_loss_rows, gain_rows
from ui.live import Live
from ui.view import View

SIGNS: dict[Kind, tuple[str, str]] = {
    "too_early": ("…", ""),
    "not_listening": ("…", ""),
    "ignored": ("!", "bad"),
    "improving": ("✓", "good"),
    "flat": ("■", "warning"),
    "overfitting": ("!", "warning"),
}
COLOURS = {GAIN: "#0f766e", BEGINS: "#b45309", SAVED: "#94a3b8"}
LOSS_TITLE = "Loss on fixed pairs, change in % (lower is better)"
LOSS_COLOURS = {HELD_OUT: "#0f766e", TRAINED: "#94a3b8"}


def build_verdict(context: AppContext, live: Live) -> None:
    """The sentence, and below it control gain and losses of fixed pairs beside each other."""
    words = gr.HTML(elem_id="verdict")
    with gr.Row(visible=False) as charts:
        gain = gr.HTML(elem_id="chart-gain", min_width=340)
        loss = gr.HTML(elem_id="chart-fixed-loss", min_width=340)
    live.part(
        [words, charts, gain, loss],
        lambda view: (view.shown_run, view.history.checks[-1:], view.history.kept, len(view.history.scores)),
        _shown,
    )


def verdict_of(history: JobSnapshot) -> Verdict | None:
    """The verdict on the run that is shown; None where nothing was measured or its settings cannot be read."""
    if not history.checks or history.run_folder is None:
        return None
    try:
        facts: Facts = facts_of(Run(history.run_folder).config)
    except UserError:
        return None
    return judge(history.checks, facts, history.scores, history.kept)


def verdict_html(verdict: Verdict) -> str:
    """The sentence with its sign; evidence and likely causes below it."""
    sign, kind = SIGNS[verdict.kind]
    causes = "".join(f"<li>{escape(cause)}</li>" for cause in verdict.causes)
    listed = f"<p class='hint'>Likely causes, the first to look at first:</p><ul class='problems'>{causes}</ul>"
    return (
        f"<div class='verdict {kind}' role='status'><p class='sentence'><span aria-hidden='true'>{sign}</span> "
        f"{escape(verdict.sentence)}</p><p class='hint'>{escape(' '.join(verdict.evidence))}</p>"
        f"{listed if causes else ''}</div>"
    )


def _shown(view: View) -> list[Any]:
    history = view.history
    verdict = verdict_of(history)
    if verdict is None:
        return ["", gr.Row(visible=False), "", ""]
    gains = gain_rows(history.checks, verdict.listens_since, history.kept)
    losses = fixed_loss_rows(history.checks)
    return [
        verdict_html(verdict),
        gr.Row(visible=len(history.checks) > 1),
        line_chart(gains, "step", "percent", "line", COLOURS, "Control gain (what the map is worth), %", "Gain, %"),
        line_chart(losses, "step", "percent", "line", LOSS_COLOURS, LOSS_TITLE, "Change, %"),
    ]
