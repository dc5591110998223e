"""Does it work? The verdict on the shown run in a sentence with its evidence, and the charts behind it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.evaluation.run_verdict import verdict_of
from engine.evaluation.verdict import Kind, Verdict
from engine.jobs.snapshot import JobSnapshot
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import View
from ui.train.chart import FOLLOWS, line_chart
from ui.train.curves import (
    DRIFT,
    HELD_OUT,
    HELD_OUT_IMAGES,
    TRAINED,
    TRAINED_IMAGES,
    fixed_loss_rows,
    gain_rows,
    step_axis,
    taught_rows,
)
from ui.train.places import place_button

SIGNS: dict[Kind, tuple[str, str]] = {
    "too_early": ("…", ""),
    "not_following": ("…", ""),
    "ignored": ("!", "bad"),
    "broken": ("!", "bad"),
    "worse": ("!", "bad"),
    "not_usable_yet": ("…", ""),
    "improving": ("✓", "good"),
    "flat": ("■", "warning"),
    "overfitting": ("!", "warning"),
    "drifting": ("!", "warning"),
    "not_learning": ("…", ""),
    "memorizing": ("!", "warning"),
    "forgetting": ("!", "warning"),
    "as_good": ("✓", "good"),
    "behind": ("…", ""),
}
GAIN_TITLE = "Control gain, in % of the loss (higher is better)"
LOSS_TITLE = "Loss on fixed pairs, % change (lower is better)"
COLOURS = {HELD_OUT: "var(--first)", TRAINED: "#94a3b8"}
TAUGHT_TITLE = "Gain (higher is better) and drift (lower is better), in % of the untrained base's loss"
TAUGHT_COLOURS = {HELD_OUT_IMAGES: "var(--first)", TRAINED_IMAGES: "#94a3b8", DRIFT: "#d97706"}
IMAGE_LOSS_TITLE = "Loss on fixed images, % change (lower is better)"
IMAGES = ("held-out images", "training images")
IMAGE_COLOURS = dict(zip(IMAGES, COLOURS.values(), strict=True))


def build_verdict(context: AppContext, live: Live, charts: Any) -> None:
    """Build the sentence, and in the row ``charts`` those of control gain and fixed losses."""
    verdict = gr.HTML(elem_id="verdict")
    with charts:
        gain = gr.HTML(elem_id="chart-gain", min_width=300)
        loss = gr.HTML(elem_id="chart-fixed-loss", min_width=300)
    live.outputs(
        [verdict, gain, loss],
        _key,
        lambda view: _render(context, view),
    )


def _key(view: View) -> Any:
    history = view.history
    return view.shown_run, history.measured[-1:], history.kept, len(history.scores), history.changes


def verdict_html(verdict: Verdict) -> str:
    """Return the sentence with its sign, and below it evidence and likely causes."""
    sign, kind = SIGNS[verdict.kind]
    causes = "".join(f"<li>{escape(cause.text)}{place_button(cause.look)}</li>" for cause in verdict.causes)
    listed = f"<p class='hint'>Likely causes. Check them in this order:</p><ul class='problems'>{causes}</ul>"
    return (
        f"<div class='verdict {kind}' role='status'><p class='sentence'><span aria-hidden='true'>{sign}</span> "
        f"{escape(verdict.sentence)}</p><p class='hint'>{escape(' '.join(verdict.evidence))}</p>"
        f"{listed if causes else ''}</div>"
    )


def marks_of(history: JobSnapshot, verdict: Verdict | None) -> dict[str, tuple[int, ...]]:
    """Return the marks of the charts: those of all charts, and the step since which it follows its control images."""
    since = verdict.follows_since if verdict and not history.base_checks else None
    return {FOLLOWS: () if since is None else (since,), **step_axis(history)["marks"]}


def _render(context: AppContext, view: View) -> list[Any]:
    history = view.history
    verdict = verdict_of(history, context.workspace.datasets)
    if verdict is None:
        return ["", "", ""]
    options = {**step_axis(history), "marks": marks_of(history, verdict)}
    if len(history.measured) < 2:
        return [verdict_html(verdict), "", ""]
    if taught := history.base_checks:
        gains, losses = taught_rows(taught), fixed_loss_rows(taught, *IMAGES)
        return [
            verdict_html(verdict),
            line_chart(gains, "step", "percent", "line", TAUGHT_COLOURS, TAUGHT_TITLE, "Share, %", **options),
            line_chart(losses, "step", "percent", "line", IMAGE_COLOURS, IMAGE_LOSS_TITLE, "Change, %", **options),
        ]
    gains, losses = gain_rows(history.checks), fixed_loss_rows(history.checks)
    return [
        verdict_html(verdict),
        line_chart(gains, "step", "percent", "line", COLOURS, GAIN_TITLE, "Gain, %", **options),
        line_chart(losses, "step", "percent", "line", COLOURS, LOSS_TITLE, "Change, %", **options),
    ]
