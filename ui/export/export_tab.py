"""Export: a checkpoint as a file for other programs, checked after it was written, and on to where it is used."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export import AS_TRAINED, DEFAULT_RANK, FORMATS, PRECISIONS
from ui.export import delivery_panel, export_jobs, more_panels
from ui.export.export_jobs import KIND
from ui.page.choices import checkpoint_list, pick_checkpoint, run_list
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress, note
from ui.page.view import View

RANKS = next(way.ranks for way in FORMATS if way.ranks)


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
            rank = gr.Radio(
                [(_rank_words(rank), rank) for rank in (AS_TRAINED, *RANKS)],
                value=AS_TRAINED,
                label="Rank: how much of it is kept",
                info="Higher is larger and closer to the net. “Size against quality” measures it for yours.",
                visible=False,
                elem_id="export-rank",
            )
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
                elem_id="export-weights",
            )
            name = gr.Textbox(
                label="Name of the file", info="Empty: the run's name.", max_lines=1, elem_id="export-name"
            )
            overwrite = gr.Checkbox(label="Replace a file of this name", elem_id="export-overwrite")
            make = gr.Button("Export", variant="primary", elem_id="export-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="export-cancel")
            progress = gr.HTML(elem_id="export-progress")
        with gr.Column(scale=3, min_width=420):
            result = gr.HTML(elem_id="export-result")
            delivery = delivery_panel.build(context, live, run)
            how = [kind, precision, weights, rank, name, overwrite]
            more = more_panels.build(context, live, run, checkpoint, weights, how)

    def start(run: str | None, step: int | None, *how: Any) -> None:
        chosen = pick_checkpoint(context, run, step)
        if not run:
            raise UserError("Nothing was exported.", "No run is chosen.", "Choose a run.")
        context.start_job(KIND, "Exporting", export_jobs.export_it(context, run, chosen, export_jobs.way_of(*how)))

    kind.change(
        lambda name: [_hint(name), gr.Radio(visible=bool(_way(name).ranks))], [kind], [hint, rank], **NO_PROGRESS
    )
    live.refresh_after(
        make.click(context.catch_errors(start, has_outputs=False), [run, checkpoint, *how], None, **NO_PROGRESS)
    )
    live.refresh_after(cancel.click(live.job_command("cancel"), None, None, **NO_PROGRESS))
    buttons = [make, *delivery, *more]
    live.outputs(
        [*buttons, cancel, progress],
        lambda view: view.snapshot if view.snapshot.kind == KIND else view.snapshot.alive,
        lambda view: [*[gr.Button(interactive=not view.snapshot.alive) for _ in buttons], *_job(view)],
    )
    live.outputs([result], lambda view: view.results.get(KIND), lambda view: [_result(view)])


def _way(name: str) -> Any:
    return next(way for way in FORMATS if way.name == name)


def _hint(name: str) -> str:
    return note(_way(name).hint) + note(_way(name).goes_to)


def _rank_words(rank: int) -> str:
    if rank == AS_TRAINED:
        return f"as it was trained (a whole net: {DEFAULT_RANK})"
    if rank == RANKS[0]:
        return f"{rank}: smallest"
    return f"{rank}: closest" if rank == RANKS[-1] else str(rank)


def _job(view: View) -> list[Any]:
    own = view.snapshot.alive and view.snapshot.kind == KIND
    words = job_progress(view.snapshot) if own else ""
    if view.snapshot.alive and not own:
        words = note(f"“{view.snapshot.title}” is running: wait for it, or pause it, then export.")
    return [gr.Button(visible=own), words]


def _result(view: View) -> str:
    result = view.results.get(KIND)
    if result is None:
        return note("What was written, its size and what was checked appear here.")
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in result.facts)
    return f"{note(result.note, 'good')}<table class='facts'>{rows}</table>"
