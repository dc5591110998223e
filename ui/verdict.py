"""Does it work? The verdict in a sentence with its evidence, and the charts behind it. Used by the Train tab."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.verdict import Facts, Kind, Verdict, facts_of, judge
from engine.jobs.snapshot import JobSnapshot
from engine.runs import Run
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
LOSS_COLOURS = {HELD_OUT: "#0f766e", TRAINED: "#94a3b8"}


def build_verdict(context: AppContext, live: Live) -> None:
    """The sentence, and below it control gain and losses of fixed pairs beside each other."""
    words = gr.HTML(elem_id="verdict")
    with gr.Row(visible=False) as charts:
        gain = _chart("chart-gain", "Control gain (what the map is worth)", "Gain, %", COLOURS)
        title = "Loss on fixed pairs (lower is better)"
        loss = _chart("chart-fixed-loss", title, "Change, %", LOSS_COLOURS)
    live.part(
        [words, charts, gain, loss],
        lambda view: (view.shown_run, view.history.checks[-1:], view.history.kept, len(view.history.scores)),
        _shown,
    )


def _chart(name: str, title: str, y_title: str, colours: dict[str, str]) -> Any:
    return gr.LinePlot(
        x="step",
        y="percent",
        color="line",
        color_map=colours,
        title=title,
        height=230,
        min_width=340,
        x_title="Step",
        y_title=y_title,
        color_title=" ",
        tooltip="axis",
        elem_id=name,
        buttons=[],
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
    import pandas

    history = view.history
    verdict = verdict_of(history)
    if verdict is None:
        return ["", gr.Row(visible=False), gr.skip(), gr.skip()]
    gains = pandas.DataFrame(gain_rows(history.checks, verdict.listens_since, history.kept))
    losses = pandas.DataFrame(fixed_loss_rows(history.checks))
    return [verdict_html(verdict), gr.Row(visible=len(history.checks) > 1), gains, losses]
