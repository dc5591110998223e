"""Watching a run: charts and the log on the Train tab."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from ui.page.live import Live
from ui.page.view import View
from ui.train.chart import line_chart
from ui.train.curves import (
    ADHERENCE,
    CONTOURS,
    EACH,
    SMOOTH,
    TITLES,
    likely_range,
    loss_rows,
    one_line,
    score_rows,
    step_axis,
)

CHART_SECONDS = 4.0
IMAGE_SIDE = 512
SCORE_COLOURS = {  # ui/page/style.css defines them for light and dark pages
    ADHERENCE: "var(--first)",
    CONTOURS: "var(--first)",
    TITLES["iou"]: "var(--second)",
    TITLES["colours"]: "var(--third)",
}
COLOURS = {EACH: "#94a3b8", SMOOTH: "var(--first)"}


def build_watch(live: Live, charts: Any) -> None:
    """Build the charts of loss and scores in the row ``charts``, and the others in a folded panel."""
    with charts:
        loss = gr.HTML(elem_id="chart-loss", min_width=300)
        scores = gr.HTML(elem_id="chart-score", min_width=300)
    more = gr.Accordion("Learning rate, speed, memory", open=False, visible=False, elem_id="more-charts")
    with more, gr.Row():
        rate = gr.HTML(elem_id="chart-rate", min_width=300)
        speed = gr.HTML(elem_id="chart-pace", min_width=300)
        memory = gr.HTML(elem_id="chart-memory", min_width=300)
    live.outputs([loss], _loss_key, _loss)
    live.outputs([more, rate, speed, memory], _loss_key, _more)
    live.outputs([scores], lambda view: (view.shown_run, view.history.scores, view.history.changes), score_chart)


def build_log(live: Live) -> None:
    """Build the folded log."""
    with gr.Accordion("Log", open=False, elem_id="train-log-box"):
        log = gr.HTML(elem_id="train-log")
    live.outputs([log], lambda view: (view.shown_run, view.history.log), lambda view: [_log(view.history.log)])


def _loss_key(view: View) -> Any:
    """Change every few seconds while a run trains, and at once when it has ended or another run is shown."""
    points = view.history.loss.points
    if not view.history.alive:
        return view.shown_run, len(points), points[-1:]
    return view.shown_run, bool(points), int(time.monotonic() / CHART_SECONDS) if points else 0


def _loss(view: View) -> list[Any]:
    points = view.history.loss.points
    title = "Loss (lower is better, but it stays noisy)"
    chart = line_chart(loss_rows(points), "step", "loss", "line", COLOURS, title, "Loss", **step_axis(view.history))
    return [chart if points else ""]


def _more(view: View) -> list[Any]:
    """Render learning rate, images per second and memory."""
    history = view.history
    memory = [(check.step, check.memory_gib) for check in history.measured if check.memory_gib]
    curves = (
        (history.rate.points, "learning rate", "Learning rate"),
        (history.pace.points, "images per second", "Images per second"),
        (memory, "GB", "Memory in use, GB (graphics card, or RAM without one)"),
    )
    charts = [
        line_chart(
            one_line(points, name),
            "step",
            "value",
            "line",
            {name: "var(--first)"},
            title,
            name,
            **step_axis(view.history),
        )
        for points, name, title in curves
    ]
    return [gr.Accordion(visible=bool(history.rate.points)), *charts]


def score_chart(view: View) -> list[Any]:
    history = view.history
    rows = score_rows(history.scores) if len(history.scores) > 1 else {}
    title = "Score on held-out images (0: chance, 1: best)"
    band = likely_range(history.figures)
    return [
        line_chart(
            rows, "step", "score", "what", SCORE_COLOURS, title, "Score", (0, 1), band=band, **step_axis(view.history)
        )
    ]


def _log(lines: tuple[str, ...]) -> str:
    text = escape("\n".join(lines[-60:])) if lines else "Nothing yet."
    return f"<pre class='log' tabindex='0'>{text}</pre>"
