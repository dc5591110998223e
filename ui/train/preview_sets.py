"""The preview images of a run: the newest set large, and a slider to earlier ones."""

from __future__ import annotations

import functools
import math
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.images import thumbnail
from engine.errors import UserError
from engine.jobs.events import PreviewMade
from engine.runs.run import Run
from ui.page import enlarge
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

SIDE = 1536
"""Longer side of a shown image, px: three parts of 512."""
PARTS = "From left to right: control image, generated image, original. Click an image to enlarge it."
OTHERS = "Scored separately: no prompt, a prompt that contradicts the image, and your own test images and prompts."


def build_previews(context: AppContext, live: Live) -> None:
    """Build heading, slider and images."""
    with gr.Row(elem_id="train-pictures-bar", elem_classes="beside"):
        heading = gr.HTML(elem_id="train-pictures-head")
        over_time = gr.Slider(
            0, 1, value=0, step=1, label="Step", visible=False, buttons=[], min_width=260, elem_id="train-pictures-time"
        )
    pictures = gr.HTML(js_on_load=enlarge.ON_LOAD, elem_id="train-pictures")
    folder = context.workspace.thumbnails

    def newest(view: View) -> list[Any]:
        preview = view.history.preview
        steps = [step for step, _ in view.history.scores]
        return [*shown_set(preview, folder), slider(steps)]

    def look_at(step: float) -> list[Any]:
        return shown_set(set_near(context.workspace.runs / context.view().shown_run, step), folder)

    live.on(over_time.input, look_at, [over_time], [heading, pictures], trigger_mode="always_last")
    live.outputs([heading, pictures, over_time], lambda view: (view.shown_run, view.history.preview), newest)


def slider(steps: list[int]) -> Any:
    """Return the slider over the steps of all sets, or hide it if there is only one."""
    if len(set(steps)) < 2:
        return gr.Slider(visible=False)
    low, high = min(steps), max(steps)
    apart = functools.reduce(math.gcd, (step - low for step in steps))
    return gr.Slider(low, high, value=high, step=apart, visible=True)


def set_near(run_folder: Path, step: float) -> PreviewMade | None:
    """Return the set of a run whose step is nearest, or None if there is none."""
    try:
        records = Run(run_folder).previews()
    except UserError:
        return None
    return min(records, key=lambda record: abs(record.step - step)).event if records else None


def shown_set(preview: PreviewMade | None, folder: Path) -> list[str]:
    """Return heading and images of a set as HTML.

    Args:
        folder: of thumbnails.
    """
    if preview is None or not preview.pictures:
        return ["", ""]
    captions = [*preview.captions, *[""] * len(preview.pictures)]
    pairs = [(path, caption.strip()) for path, caption in zip(preview.pictures, captions, strict=False)]
    parts = [_strips(pairs, folder)]
    if known := [(path, title) for path, title in preview.probes if path.is_file()]:
        parts += [note(OTHERS), _strips(known, folder, "small")]
    heading = f"<h3>Preview images at step {preview.step:,}</h3>{note(PARTS)}"
    return [heading, "".join(parts) + enlarge.dialog("A preview image")]


def _strips(pairs: list[tuple[Path, str]], folder: Path, kind: str = "") -> str:
    found = [
        f"<figure>{enlarge.cell(thumbnail(path, folder, SIDE), words or path.stem)}"
        f"<figcaption>{escape(words)}</figcaption></figure>"
        for path, words in pairs
        if path.is_file()
    ]
    return f"<div class='strips {kind}'>{''.join(found)}</div>"
