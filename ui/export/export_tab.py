"""Export: write a checkpoint as a file for other programs, check the file, and take it to where it is used."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export import AS_TRAINED, DEFAULT_RANK, FORMATS, PRECISIONS, ExportFormat
from engine.export.formats import FORMATS_OF, measured
from engine.export.quantization_loss import find_loss
from engine.tuning.facts import facts_of
from ui.export import delivery_panel, export_jobs, more_panels
from ui.export.export_jobs import KIND
from ui.page.choices import NEWEST, checkpoint_list, left_out_of, no_run_yet, pick_checkpoint, run_list, run_of
from ui.page.context import AppContext
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

APPEARS = "The exported file, its size and the result of the check appear here."
RANKS = next(format.ranks for format in FORMATS if format.ranks)


def build(context: AppContext, live: Live) -> None:
    """Build the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            run = run_list(live, "Run", "export-run")
            checkpoint = checkpoint_list(context, live, run, "export-checkpoint")
            options = _build_options(context, live, run)
            precision, weights = options[1:3]
            loss = gr.HTML(elem_id="export-loss")
            make = gr.Button("Export", variant="primary", elem_id="export-make")
            add = queue_button(live, make)
            cancel = gr.Button("Cancel", visible=False, elem_id="export-cancel")
            progress = gr.HTML(elem_id="export-progress")
        with gr.Column(scale=3, min_width=420):
            result = gr.HTML(elem_id="export-result")
            delivery = delivery_panel.build(context, live, run, checkpoint)
            more_panels.build(context, live, run, checkpoint, weights, options)

    def start(run: str | None, step: int | None, *raw: Any) -> None:
        chosen = pick_checkpoint(context, run, step)
        if not run:
            raise UserError("Nothing was exported.", "No run is selected.", "Select a run.")
        wanted = export_jobs.export_options(*raw)
        job = export_jobs.export_job(context, run, chosen, wanted, left_out_of(context, run, step, chosen))
        queued = export_jobs.queued_export(run, "newest" if step in (NEWEST, None) else chosen.step, wanted)
        context.start_job(KIND, "Exporting", job, queued)

    def show_loss(run: str | None, step: int | None, precision: str, weights: str) -> str:
        return _loss_html(context, run, step, precision, weights)

    shown = [run, checkpoint, precision, weights]
    live.on([one.change for one in shown], show_loss, shown, [loss])
    live.on([make.click, add.click], start, [run, checkpoint, *options])
    job_controls(
        live, KIND, delivery, cancel, progress, busy_hint="add the export to the queue, or wait until it has ended."
    )
    live.outputs([result], lambda view: (view.results.get(KIND), not view.runs), lambda view: [result_html(view)])


def _build_options(context: AppContext, live: Live, run: Any) -> list[Any]:
    """Build the inputs of ``export_jobs.export_options``, in its order. ``run``: the list of runs."""
    format = gr.Radio(
        [(entry.title, entry.name) for entry in FORMATS],
        value=FORMATS[0].name,
        label="Format",
        elem_id="export-format",
    )
    hint = gr.HTML(_hint(FORMATS[0]))
    rank = gr.Radio(
        [(_rank_title(rank), rank) for rank in (AS_TRAINED, *RANKS)],
        value=AS_TRAINED,
        label="Rank",
        info="A higher rank gives a larger file that is closer to what was trained. For a ControlNet, “Size "
        "against quality” compares the ranks.",
        visible=False,
        elem_id="export-rank",
    )
    precision = gr.Radio(
        _precisions(FORMATS[0]),
        value=FORMATS[0].precisions[0],
        label="Precision",
        elem_id="export-precision",
    )
    weights = gr.Radio(
        [("EMA average, if the run has one", "ema"), ("Weights of the last step", "plain")],
        value="ema",
        label="Weights",
        elem_id="export-weights",
    )
    name = gr.Textbox(label="Name of the file", info="Empty: the run's name.", max_lines=1, elem_id="export-name")
    overwrite = gr.Checkbox(label="Overwrite a file of this name", elem_id="export-overwrite")

    def formats_of(name: str | None) -> tuple[ExportFormat, ...]:
        chosen = run_of(context, name)
        return FORMATS_OF[facts_of(chosen.config).exported_as] if chosen else FORMATS

    def show_format(name: str, run: str | None, precision: str) -> list[Any]:
        chosen = _format_named(name, formats_of(run))
        return [_hint(chosen), gr.Radio(visible=bool(chosen.ranks)), _precision_radio(chosen, precision)]

    def show_formats(run: str | None, name: str, precision: str) -> list[Any]:
        found = formats_of(run)
        chosen = _format_named(name, found)
        radio = gr.Radio([(entry.title, entry.name) for entry in found], value=chosen.name)
        return [radio, _hint(chosen), gr.Radio(visible=bool(chosen.ranks)), _precision_radio(chosen, precision)]

    live.on(format.change, show_format, [format, run, precision], [hint, rank, precision])
    live.on(run.change, show_formats, [run, format, precision], [format, hint, rank, precision])
    return [format, precision, weights, rank, name, overwrite]


def _format_named(name: str, formats: tuple[ExportFormat, ...]) -> ExportFormat:
    """The format of this name; the first where a run has none of that name."""
    return next((format for format in formats if format.name == name), formats[0])


def _hint(format: ExportFormat) -> str:
    return note(format.hint) + note(format.goes_to)


def _precisions(format: ExportFormat) -> list[tuple[str, str]]:
    return [(choice.title, choice.name) for choice in PRECISIONS if choice.name in format.precisions]


def _precision_radio(format: ExportFormat, chosen: str) -> Any:
    """The precisions of a format; the chosen one stays, if it is one of them."""
    return gr.Radio(_precisions(format), value=chosen if chosen in format.precisions else format.precisions[0])


def _loss_html(context: AppContext, run: str | None, step: int | None, precision: str, weights: str) -> str:
    """What is known about the loss in this precision; empty where none has to be measured."""
    if not run or not measured(precision):
        return ""
    chosen = pick_checkpoint(context, run, step)
    kind = "ema" if weights == "ema" and chosen.has_ema else "plain"
    loss = find_loss(context.workspace.runs / run / "exports", chosen.folder.name, kind, precision)
    if loss is None:
        return note(
            f"The export first draws the held-out images to measure how much adherence is lost in {precision}. It is "
            "written only if the adherence stays within the checkpoint's interval."
        )
    verdict = "" if loss.acceptable else " That is too much: nothing is written in this precision."
    return note(loss.text + verdict, "good" if loss.acceptable else "warning")


def _rank_title(rank: int) -> str:
    if rank == AS_TRAINED:
        return f"as trained (of whole weights: {DEFAULT_RANK})"
    if rank == RANKS[0]:
        return f"{rank}: smallest"
    return f"{rank}: closest" if rank == RANKS[-1] else str(rank)


def result_html(view: View) -> str:
    """What the last export has made, or what will appear there."""
    result = view.results.get(KIND)
    if result is None:
        return note(APPEARS) if view.runs else no_run_yet(APPEARS)
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in result.facts)
    return f"{note(result.note, 'good')}<table class='facts'>{rows}</table>"
