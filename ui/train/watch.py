"""Watching a run: charts, preview images and the log on the Train tab."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.images import thumbnail
from engine.jobs.events import PreviewMade
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
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


def build_watch(context: AppContext, live: Live) -> None:
    """Build the charts, and below them the preview images and the log."""
    with gr.Row(visible=False) as charts:
        loss = gr.HTML(elem_id="chart-loss", min_width=340)
        scores = gr.HTML(elem_id="chart-score", min_width=340)
    with gr.Accordion("Learning rate, speed, memory", open=False, visible=False, elem_id="more-charts") as more:
        with gr.Row():
            rate = gr.HTML(elem_id="chart-rate", min_width=300)
            speed = gr.HTML(elem_id="chart-pace", min_width=300)
        memory = gr.HTML(elem_id="chart-memory", min_width=300)
    heading = gr.HTML(elem_id="train-pictures-head")
    previews = _gallery("train-pictures")
    tests_heading = gr.HTML(elem_id="train-probes-head")
    tests = _gallery("train-probes")
    with gr.Accordion("Log", open=False, elem_id="train-log-box"):
        log = gr.HTML(elem_id="train-log")

    thumbnails = context.workspace.thumbnails
    live.outputs([charts, loss], _loss_key, _loss)
    live.outputs([more, rate, speed, memory], _loss_key, _more)
    live.outputs([scores], lambda view: (view.shown_run, view.history.scores, view.history.changes), score_chart)
    live.outputs(
        [heading, previews, tests_heading, tests],
        lambda view: (view.shown_run, view.history.preview),
        lambda view: [*_previews(thumbnails, view.history.preview), *_tests(thumbnails, view.history.preview)],
    )
    live.outputs([log], lambda view: (view.shown_run, view.history.log), lambda view: [_log(view.history.log)])


def _gallery(elem_id: str) -> Any:
    return gr.Gallery(
        show_label=False,
        columns=2,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        visible=False,
        elem_id=elem_id,
        interactive=False,
    )


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
    return [gr.Row(visible=bool(points)), chart]


def _more(view: View) -> list[Any]:
    """Render learning rate, images per second and memory."""
    history = view.history
    memory = [(check.step, check.memory_gib) for check in history.checks if check.memory_gib]
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


def _previews(folder: Path, preview: PreviewMade | None) -> list[Any]:
    """Render heading and gallery of the newest preview images of held-out pairs."""
    if preview is None or not preview.pictures:
        return ["", gr.Gallery([], visible=False)]
    captions = [*preview.captions, *[""] * len(preview.pictures)]
    shown = [
        (str(thumbnail(path, folder, IMAGE_SIDE)), caption.strip())
        for path, caption in zip(preview.pictures, captions, strict=False)
        if path.is_file()
    ]
    heading = f"<h3>Preview images at step {preview.step:,}</h3>"
    return [
        heading + note("From left to right: control image, generated image, original."),
        gr.Gallery(shown, visible=True),
    ]


def _tests(folder: Path, preview: PreviewMade | None) -> list[Any]:
    """Render the newest preview images with odd prompts and of the user's own, each with its title."""
    known = [(path, title) for path, title in preview.probes if path.is_file()] if preview else []
    if not known:
        return ["", gr.Gallery([], visible=False)]
    shown = [(str(thumbnail(path, folder, IMAGE_SIDE)), title) for path, title in known]
    text = "Scored separately: no prompt, a prompt that contradicts the image, and your own test images and prompts."
    return [note(text), gr.Gallery(shown, visible=True)]


def _log(lines: tuple[str, ...]) -> str:
    text = escape("\n".join(lines[-60:])) if lines else "Nothing yet."
    return f"<pre class='log' tabindex='0'>{text}</pre>"
