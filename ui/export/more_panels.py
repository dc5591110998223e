"""The folded panels of the Export tab: size against quality, averages of checkpoints, import of other ControlNets."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.conditions import registry
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.export.formats import BASE_FORMATS
from engine.export.size_table import obeys_text, read_table
from engine.machine.units import counted
from engine.queue.net_jobs import CompareSizes, ImportNet
from engine.queue.tuned_base_jobs import ExportBase
from engine.workspace.base_reference import join
from ui.export import export_jobs, serving_panel
from ui.export.export_jobs import KIND
from ui.page.choices import NEWEST, checkpoints_of, left_out_of, pick_checkpoint, shown_run
from ui.page.context import AppContext
from ui.page.jobs import queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View

WEIGHTINGS = [("Equal weights", "equal"), ("Later ones count more (post-hoc EMA)", "ema")]


def build(context: AppContext, live: Live, run: Any, checkpoint: Any, weights: Any, options: list[Any]) -> None:
    """Build all panels.

    Args:
        run: the list of runs. checkpoint: the list of checkpoints. weights: the choice between EMA and plain weights.
        options: the inputs of ``export_jobs.export_options``.
    """
    _build_comparison(context, live, run, checkpoint, weights)
    _build_average(context, live, run, checkpoint, options)
    _build_import(context, live)
    _build_merged_base(context, live)
    serving_panel.build(context, live, run, checkpoint)


def _build_comparison(context: AppContext, live: Live, run: Any, checkpoint: Any, weights: Any) -> None:
    with gr.Accordion("Size against quality: how small can it be?", open=False, elem_id="compare"):
        gr.HTML(
            note(
                "Exports the ControlNet in every precision and as a Control-LoRA of every rank, generates the "
                "held-out images with each, and scores them. The files are not kept. It takes as long as drawing "
                "that many sets of preview images."
            )
        )
        measure = gr.Button("Measure", elem_id="compare-measure")
        add = queue_button(live, measure)
        table = gr.HTML(elem_id="compare-table")

    def start(run: str | None, step: int | None, weights: str) -> None:
        chosen = pick_checkpoint(context, run, step)
        newest, average = step in (NEWEST, None), weights == "ema"
        queued = CompareSizes(
            run=str(run),
            checkpoint="newest" if newest else chosen.step,
            weights="ema" if average else "plain",
        )
        job = export_jobs.compare_job(context, str(run), chosen, average, left_out_of(context, run, step, chosen))
        context.start_job(KIND, "Measuring sizes", job, queued)

    def show(run: str | None) -> str:
        return _table(context.workspace.runs / run / "exports") if run else ""

    def render(view: View) -> list[str]:
        result = view.results.get("compare")
        return [_table(Path(result.where)) if result is not None else show(shown_run(view))]

    live.on([measure.click, add.click], start, [run, checkpoint, weights])
    live.on(run.change, show, [run], [table])
    live.outputs([table], lambda view: (view.results.get("compare"), view.runs, view.shown_run), render)


def _build_average(context: AppContext, live: Live, run: Any, checkpoint: Any, options: list[Any]) -> None:
    with gr.Accordion("Average checkpoints, free disk space, continue training", open=False, elem_id="average"):
        chosen = gr.CheckboxGroup([], label="Checkpoints to average", elem_id="average-steps")
        kind = gr.Radio(WEIGHTINGS, value="equal", label="How they count", elem_id="average-kind")
        decay = gr.Slider(
            0.9,
            0.9999,
            value=0.999,
            step=0.0001,
            label="EMA decay per step",
            info="0.999 averages about 1,000 steps, 0.9999 about 10,000.",
            visible=False,
            elem_id="average-decay",
        )
        gr.HTML(note("An average often gives smoother images. It is exported with the options on the left."))
        average = gr.Button("Average and export", elem_id="average-make")
        add = queue_button(live, average)
        with gr.Row():
            shrink = gr.Button("Shrink old checkpoints", elem_id="trim")
            resume = gr.Button("Continue from this checkpoint", elem_id="train-on")
        gr.HTML(
            note(
                "Shrinking deletes what is only needed to resume from all but the newest checkpoint. You can still "
                "try and export all of them."
            )
        )
        result = gr.HTML(elem_id="average-result")

    def steps_of(run: str | None) -> Any:
        found = checkpoints_of(context, run)
        return gr.CheckboxGroup([(f"step {c.step:,}", c.step) for c in found], value=[c.step for c in found])

    def start(run: str | None, steps: list[int], kind: str, decay: float, *raw: Any) -> None:
        picked = [c for c in checkpoints_of(context, run)[::-1] if c.step in (steps or ())]
        if not run or len(picked) < 2:
            raise UserError(
                "The checkpoints were not averaged.", "An average needs at least two.", "Tick two or more of them."
            )
        wanted = export_jobs.export_options(*raw)
        job = export_jobs.average_job(context, run, picked, kind, decay, wanted)
        queued = export_jobs.queued_average(run, [one.step for one in picked], kind, decay, wanted)
        context.start_job(KIND, "Averaging checkpoints", job, queued)

    def shrink_old(run: str | None) -> str:
        if not run:
            raise UserError("Nothing was deleted.", "No run is selected.", "Select a run.")
        return note(export_jobs.shrink_checkpoints(context, run), "good")

    def continue_from(run: str | None, step: int | None) -> str:
        chosen = pick_checkpoint(context, run, step)
        words = [export_jobs.continue_from(context, str(run), chosen), *left_out_of(context, run, step, chosen)]
        return note(" ".join(words), "good")

    live.on(run.change, steps_of, [run], [chosen])
    live.on(kind.change, lambda kind: gr.Slider(visible=kind == "ema"), [kind], [decay])
    live.on([average.click, add.click], start, [run, chosen, kind, decay, *options])
    live.on(shrink.click, shrink_old, [run], [result], refresh=True)
    live.on(resume.click, continue_from, [run, checkpoint], [result], refresh=True)
    live.outputs(
        [chosen],
        lambda view: (view.runs, view.shown_run, view.history.checkpoint),
        lambda view: [steps_of(shown_run(view))],
    )


def _build_import(context: AppContext, live: Live) -> None:
    types = [
        ("As the file says (otherwise: my own maps)", ""),
        *((kind.title, kind.name) for kind in registry.all()),
    ]
    with gr.Accordion("Import a ControlNet", open=False, elem_id="import"):
        gr.HTML(note("It is added as a new run: you can try it, convert it to another format, or train it further."))
        path = gr.Textbox(
            label="File or folder",
            info=".safetensors, .pth, .ckpt, a Control-LoRA, or a diffusers folder. The format is detected.",
            max_lines=1,
            elem_id="import-path",
        )
        base = gr.Textbox("demo", label="Base model it was trained for", max_lines=1, elem_id="import-base")
        kind = gr.Dropdown(types, value="", label="Control type", elem_id="import-type")
        name = gr.Textbox(label="Name", info="Empty: the file's name.", max_lines=1, elem_id="import-name")
        button = gr.Button("Import", elem_id="import-make")
        add = queue_button(live, button)
        result = gr.HTML(elem_id="import-result")

    def start(path: str, base: str, kind: str, name: str) -> None:
        if not (path or "").strip():
            raise UserError("Nothing was imported.", "No file is given.", "Enter the path of a file or folder.")
        job = export_jobs.import_job(context, path, base or "demo", kind or "", name or "")
        queued = ImportNet(file=path.strip(), base=(base or "demo").strip(), type=kind or "", name=name or "")
        context.start_job(KIND, "Importing a ControlNet", job, queued)

    def render(view: View) -> list[str]:
        imported = view.results.get("import")
        return [note(imported.note, "good") if imported else ""]

    live.on([button.click, add.click], start, [path, base, kind, name])
    live.outputs([result], lambda view: view.results.get("import"), render)


def _build_merged_base(context: AppContext, live: Live) -> None:
    with gr.Accordion("Export a base with LoRA and embedding files in it", open=False, elem_id="merged-base"):
        gr.HTML(note("Goes to the workspace's models folder, where it is a base like any other."))
        base = gr.Textbox("demo", label="Base model", max_lines=1, elem_id="merged-base-base")
        info = "One per line. A weight other than 1 follows a colon: style.safetensors:0.8"
        files = gr.Textbox("", label="LoRA and embedding files", info=info, lines=2, elem_id="merged-base-files")
        choices = [(way.title, way.name) for way in BASE_FORMATS]
        format = gr.Radio(choices, value=choices[0][1], label="Format", elem_id="merged-base-format")
        name = gr.Textbox(label="Name", info="Empty: the base's name.", max_lines=1, elem_id="merged-base-name")
        button = gr.Button("Export the base", elem_id="merged-base-make")
        add = queue_button(live, button)

    def start(base: str, files: str, format: str, name: str) -> None:
        reference = _merged_base(base or "demo", files or "")
        job = export_jobs.merged_base_job(context, reference, format, name or "")
        queued = ExportBase(base=reference, format=format, name=(name or "").strip())
        context.start_job(KIND, "Exporting a base", job, queued)

    live.on([button.click, add.click], start, [base, files, format, name])


def _merged_base(base: str, files: str) -> str:
    """Return the reference to a base with LoRA and embedding files in it.

    Raises:
        UserError: a weight is not a number.
    """
    try:
        return join(typed_path(base), files)
    except ValueError as error:
        raise UserError("The base was not exported.", f"{error}.", "Correct the weight.") from error


def _table(exports: Path) -> str:
    """Return the last comparison of sizes that was saved in an exports folder."""
    table = read_table(exports)
    if table is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(row.title)}</td><td>{row.megabytes:,.1f}</td><td>{row.adherence:.3f}</td>"
        f"<td>{'–' if number == 0 else f'{row.loss:+z.3f}'}</td><td>{obeys_text(row)}</td></tr>"
        for number, row in enumerate(table.rows)
    )
    return (
        f"<table class='figures'><tr><th>Format</th><th>MB</th><th>Score ({escape(table.score)})</th>"
        f"<th>Lost</th><th>Adherence (95 %)</th></tr>{rows}</table>"
        + note(
            f"{exports.parent.name}, step {table.step:,}, {counted(table.pictures, 'held-out image')} for each row. "
            "Differences of a few hundredths are due to chance."
        )
    )
