"""Does it work? The verdict in a sentence with its evidence, and the charts behind it. Used by the Train tab."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.data.dataset import Dataset
from engine.data.doctor.store import Store
from engine.errors import UserError
from engine.evaluation.causes import Cause, Facts, facts_of
from engine.evaluation.verdict import Kind, Verdict, judge
from engine.jobs.snapshot import JobSnapshot
from engine.runs.run import Run
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import View
from ui.train.chart import BEGINS, PAUSED, SAVED, line_chart
from ui.train.curves import GAIN, HELD_OUT, TRAINED, TRAINED_GAIN, fixed_loss_rows, gain_rows

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
}
COLOURS = {GAIN: "var(--first)", TRAINED_GAIN: "#94a3b8"}
GAIN_TITLE = "Control gain: what the map is worth, in % of the loss"
PLACES = {
    "doctor": ("Check the set", ("tab-dataset", "dataset-check")),
    "settings": ("Look at the settings", ("tab-train",)),
    "dataset": ("Add images", ("tab-dataset",)),
}
"""Where a cause is looked at: the words on its button, and the ids of the tabs to open."""
LOSS_TITLE = "Loss on fixed pairs, change in % (lower is better)"
LOSS_COLOURS = {HELD_OUT: "var(--first)", TRAINED: "#94a3b8"}


def build_verdict(context: AppContext, live: Live) -> None:
    """The sentence, and below it control gain and losses of fixed pairs beside each other."""
    words = gr.HTML(elem_id="verdict")
    with gr.Row(visible=False) as charts:
        gain = gr.HTML(elem_id="chart-gain", min_width=340)
        loss = gr.HTML(elem_id="chart-fixed-loss", min_width=340)
    live.outputs(
        [words, charts, gain, loss],
        lambda view: (view.shown_run, view.history.checks[-1:], view.history.kept, len(view.history.scores)),
        lambda view: _shown(context, view),
    )


def verdict_of(history: JobSnapshot, datasets: Path | None = None) -> Verdict | None:
    """The verdict on the run that is shown; None where nothing was measured or its settings cannot be read.

    ``datasets``: the workspace's, whose doctor then adds what it has found.
    """
    if not history.checks or history.run_folder is None:
        return None
    try:
        config = Run(history.run_folder).config
    except UserError:
        return None
    facts: Facts = facts_of(config, *(_known(datasets / config.data.dataset) if datasets else ()))
    return judge(history.checks, facts, history.scores, history.kept, history.figures)


def _known(folder: Path) -> tuple[int, dict[str, int] | None]:
    """How many pairs there are, and what the doctor has found; None: it was not asked."""
    try:
        dataset = Dataset.open(folder)
    except UserError:
        return 0, None  # removed since
    store = Store(dataset.folder)
    return dataset.count(ready=True), store.counts() if store.exists and store.about() else None


def verdict_html(verdict: Verdict) -> str:
    """The sentence with its sign; evidence and likely causes below it."""
    sign, kind = SIGNS[verdict.kind]
    causes = "".join(f"<li>{escape(cause.text)}{_link(cause)}</li>" for cause in verdict.causes)
    listed = f"<p class='hint'>Likely causes, the first to look at first:</p><ul class='problems'>{causes}</ul>"
    return (
        f"<div class='verdict {kind}' role='status'><p class='sentence'><span aria-hidden='true'>{sign}</span> "
        f"{escape(verdict.sentence)}</p><p class='hint'>{escape(' '.join(verdict.evidence))}</p>"
        f"{listed if causes else ''}</div>"
    )


def _link(cause: Cause) -> str:
    """A button that opens the place where the cause is looked at."""
    if cause.look not in PLACES:
        return ""
    words, tabs = PLACES[cause.look]
    clicks = "".join(f"document.getElementById('{name}-button')?.click();" for name in tabs)
    return f' <button type="button" class="look" onclick="{clicks}">{escape(words)}</button>'


def marks_of(history: JobSnapshot, verdict: Verdict | None) -> dict[str, tuple[int, ...]]:
    """What the charts mark: since when it follows its control images, where it was saved, where it was paused."""
    since = verdict.follows_since if verdict else None
    return {BEGINS: () if since is None else (since,), SAVED: history.kept, PAUSED: history.pauses}


def _shown(context: AppContext, view: View) -> list[Any]:
    history = view.history
    verdict = verdict_of(history, context.workspace.datasets)
    if verdict is None:
        return ["", gr.Row(visible=False), "", ""]
    more: dict[str, Any] = {"marks": marks_of(history, verdict), "images": history.images_per_step}
    gains, losses = gain_rows(history.checks), fixed_loss_rows(history.checks)
    return [
        verdict_html(verdict),
        gr.Row(visible=len(history.checks) > 1),
        line_chart(gains, "step", "percent", "line", COLOURS, GAIN_TITLE, "Gain, %", **more),
        line_chart(losses, "step", "percent", "line", LOSS_COLOURS, LOSS_TITLE, "Change, %", **more),
    ]
