"""The Export tab's folded parts: size against quality, averages of checkpoints, and nets from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.conditions import registry
from engine.errors import UserError
from engine.export.table import read_table
from ui.export import export_jobs
from ui.export.export_jobs import KIND
from ui.page.choices import checkpoints_of, pick_checkpoint
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.view import View

KINDS = [("All count the same", "equal"), ("Later ones count more (EMA made afterwards)", "ema")]


def build(context: AppContext, live: Live, run: Any, checkpoint: Any, weights: Any, how: list[Any]) -> list[Any]:
    """Everything; returns the buttons that start jobs."""
    measure = _compare(context, live, run, checkpoint, weights)
    average = _average(context, live, run, checkpoint, how)
    bring = _bring_in(context, live)
    return [measure, average, bring]


def _compare(context: AppContext, live: Live, run: Any, checkpoint: Any, weights: Any) -> Any:
    with gr.Accordion("Size against quality: how small can it be?", open=False, elem_id="compare"):
        gr.HTML(
            note(
                "Writes the net in every precision and as Control-LoRA of every rank, draws the held-out images with "
                "each, and scores them. The files are not kept. Takes as long as that many control images."
            )
        )
        measure = gr.Button("Measure", elem_id="compare-measure")
        table = gr.HTML(elem_id="compare-table")

    def start(run: str | None, step: int | None, weights: str) -> None:
        chosen = pick_checkpoint(context, run, step)
        context.start_job(KIND, "Measuring sizes", export_jobs.compare_it(context, str(run), chosen, weights == "ema"))

    def show(run: str | None) -> str:
        return _table(context.workspace.runs / run / "exports") if run else ""

    live.refresh_after(
        measure.click(context.catch_errors(start, has_outputs=False), [run, checkpoint, weights], None, **NO_PROGRESS)
    )
    run.change(context.catch_errors(show), [run], [table], **NO_PROGRESS)

    def render(view: View) -> list[str]:
        result = view.results.get("compare")
        if result is not None:
            return [_table(Path(result.where))]
        return [show(view.shown_run or next(iter(view.runs), None))]

    live.outputs([table], lambda view: (view.results.get("compare"), view.runs, view.shown_run), render)
    return measure


def _average(context: AppContext, live: Live, run: Any, checkpoint: Any, how: list[Any]) -> Any:
    with gr.Accordion("Average checkpoints, free disk, train on", open=False, elem_id="average"):
        chosen = gr.CheckboxGroup([], label="Checkpoints to average", elem_id="average-steps")
        kind = gr.Radio(KINDS, value="equal", label="How", elem_id="average-kind")
        decay = gr.Slider(
            0.9,
            0.9999,
            value=0.999,
            step=0.0001,
            label="EMA decay for each step",
            info="0.999 averages about 1,000 steps, 0.9999 about 10,000.",
            visible=False,
            elem_id="average-decay",
        )
        gr.HTML(note("An average often draws calmer images. It is exported as chosen on the left."))
        make = gr.Button("Average and export", elem_id="average-make")
        with gr.Row():
            trim = gr.Button("Free disk: shrink old checkpoints", elem_id="trim")
            go_on = gr.Button("Train on from the chosen checkpoint", elem_id="train-on")
        gr.HTML(
            note("Shrinking drops what only a resume needs, from all but the newest; all can still be tried and taken.")
        )
        told = gr.HTML(elem_id="average-told")

    def steps_of(run: str | None) -> Any:
        found = checkpoints_of(context, run)
        return gr.CheckboxGroup([(f"step {c.step:,}", c.step) for c in found], value=[c.step for c in found])

    def start(run: str | None, steps: list[int], kind: str, decay: float, *how: Any) -> None:
        picked = [c for c in checkpoints_of(context, run)[::-1] if c.step in (steps or ())]
        if not run or len(picked) < 2:
            raise UserError(
                "The checkpoints were not averaged.", "An average needs at least two.", "Tick two or more of them."
            )
        job = export_jobs.average_it(context, run, picked, kind, decay, export_jobs.way_of(*how))
        context.start_job(KIND, "Averaging checkpoints", job)

    def shrink(run: str | None) -> str:
        if not run:
            raise UserError("Nothing was removed.", "No run is chosen.", "Choose a run.")
        return note(export_jobs.trim_it(context, run), "good")

    def train_on(run: str | None, step: int | None) -> str:
        return note(export_jobs.train_on(context, str(run), pick_checkpoint(context, run, step)), "good")

    run.change(context.catch_errors(steps_of), [run], [chosen], **NO_PROGRESS)
    kind.change(lambda kind: gr.Slider(visible=kind == "ema"), [kind], [decay], **NO_PROGRESS)
    live.refresh_after(
        make.click(
            context.catch_errors(start, has_outputs=False), [run, chosen, kind, decay, *how], None, **NO_PROGRESS
        )
    )
    live.refresh_after(trim.click(context.catch_errors(shrink), [run], [told], **NO_PROGRESS))
    live.refresh_after(go_on.click(context.catch_errors(train_on), [run, checkpoint], [told], **NO_PROGRESS))
    live.outputs(
        [chosen],
        lambda view: (view.runs, view.shown_run, view.history.checkpoint),
        lambda view: [steps_of(view.shown_run or next(iter(view.runs), None))],
    )
    return make


def _bring_in(context: AppContext, live: Live) -> Any:
    types = [("As the file says, else ready maps", ""), *((kind.title, kind.name) for kind in registry.all())]
    with gr.Accordion("Bring in a ControlNet from elsewhere", open=False, elem_id="import"):
        gr.HTML(note("It becomes a run of its own: try it, turn it into another format, or train on from it."))
        path = gr.Textbox(
            label="File or folder",
            info=".safetensors, .pth, .ckpt, a Control-LoRA, or a diffusers folder. The kind is recognised.",
            max_lines=1,
            elem_id="import-path",
        )
        base = gr.Textbox("demo", label="The base it was made for", max_lines=1, elem_id="import-base")
        kind = gr.Dropdown(types, value="", label="What its maps show", elem_id="import-type")
        name = gr.Textbox(label="Name", info="Empty: the file's.", max_lines=1, elem_id="import-name")
        bring = gr.Button("Bring it in", elem_id="import-make")
        told = gr.HTML(elem_id="import-told")

    def start(path: str, base: str, kind: str, name: str) -> None:
        if not (path or "").strip():
            raise UserError("Nothing was brought in.", "No file is named.", "Give the path of a file or folder.")
        job = export_jobs.import_it(context, path, base or "demo", kind or "", name or "")
        context.start_job(KIND, "Bringing in a ControlNet", job)

    live.refresh_after(
        bring.click(context.catch_errors(start, has_outputs=False), [path, base, kind, name], None, **NO_PROGRESS)
    )
    live.outputs([told], lambda view: view.results.get("import"), lambda view: [_said(view, "import")])
    return bring


def _said(view: View, kind: str) -> str:
    result = view.results.get(kind)
    return note(result.note, "good") if result else ""


def _table(exports: Path) -> str:
    table = read_table(exports)
    if table is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(row.title)}</td><td>{row.megabytes:,.1f}</td><td>{row.adherence:.3f}</td>"
        f"<td>{'–' if number == 0 else f'{row.loss:+.3f}'}</td></tr>"
        for number, row in enumerate(table.rows)
    )
    return (
        f"<table class='figures'><tr><th>Format</th><th>MB</th><th>Score ({escape(table.score)})</th>"
        f"<th>Lost</th></tr>{rows}</table>"
        + note(
            f"{exports.parent.name}, step {table.step:,}, {table.pictures} held-out images for each line. "
            "Differences of a few hundredths are chance."
        )
    )
