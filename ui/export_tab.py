"""Export: a checkpoint as a file for other programs, checked after it was written."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export import FORMATS, PRECISIONS
from ui import exporting
from ui.choices import checkpoint_list, pick_checkpoint, run_list
from ui.context import AppContext
from ui.live import Live
from ui.messages import job_progress, note
from ui.view import View

KIND = "export"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            run = run_list(live, "Run", "export-run")
            checkpoint = checkpoint_list(context, live, run, "export-checkpoint")
            kind = gr.Radio(
                [(way.title, way.name) for way in FORMATS],
                value=FORMATS[0].name,
                label="Format",
                elem_id="export-format",
            )
            hint = gr.HTML(_hint(FORMATS[0].name))
            precision = gr.Radio(
                [(choice.title, choice.name) for choice in PRECISIONS],
                value=PRECISIONS[0].name,
                label="Precision",
                elem_id="export-precision",
            )
            weights = gr.Radio(
                [("Averaged (EMA), where the run has them", "ema"), ("The last step's own", "plain")],
                value="ema",
                label="Weights",
            )
            name = gr.Textbox(
                label="Name of the file", info="Empty: the run's name.", max_lines=1, elem_id="export-name"
            )
            overwrite = gr.Checkbox(label="Replace a file of this name", elem_id="export-overwrite")
            make = gr.Button("Export", variant="primary", elem_id="export-make")
        with gr.Column(scale=3, min_width=420):
            progress = gr.HTML(elem_id="export-progress")
            result = gr.HTML(elem_id="export-result")

    def start(
        run: str | None, step: int | None, kind: str, precision: str, weights: str, name: str, overwrite: bool
    ) -> None:
        chosen = pick_checkpoint(context, run, step)
        if not run:
            raise UserError("Nothing was exported.", "No run is chosen.", "Choose a run.")
        average = "ema" if weights == "ema" and chosen.has_ema else "plain"
        context.start_job(
            KIND, "Exporting", exporting.export_it(context, run, chosen, kind, precision, average, name, overwrite)
        )

    kind.change(_hint, [kind], [hint], **QUIET)
    inputs = [run, checkpoint, kind, precision, weights, name, overwrite]
    live.after(make.click(context.guarded(start), inputs, None, **QUIET))
    live.part(
        [make, progress],
        lambda view: view.snapshot if view.snapshot.kind == KIND else view.snapshot.alive,
        lambda view: [gr.Button(interactive=not view.snapshot.alive), _progress(view)],
    )
    live.part([result], lambda view: view.results.get(KIND), lambda view: [_result(view)])


def _hint(name: str) -> str:
    way = next(way for way in FORMATS if way.name == name)
    return note(way.hint) + note(way.goes_to)


def _progress(view: View) -> str:
    if view.snapshot.alive and view.snapshot.kind != KIND:
        return note(f"“{view.snapshot.title}” is running: wait for it, or pause it, then export.")
    return job_progress(view.snapshot) if view.snapshot.kind == KIND else ""


def _result(view: View) -> str:
    result = view.results.get(KIND)
    if result is None:
        return note("What was written, its size and what was checked appear here.")
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in result.facts)
    return f"{note(result.note, 'good')}<table class='facts'>{rows}</table>"
