"""Compare checkpoints: a grid of the same images drawn with several checkpoints of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.image_cache import ImageCache
from engine.inference.settings import declared
from engine.jobs.snapshot import JobKind
from ui.page.choices import run_list, run_of
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.model_jobs import ModelJobs
from ui.page.states import ADD_TO_QUEUE
from ui.page.view import View
from ui.try_it import compare_jobs
from ui.try_it.compare_jobs import LIVE, WITHOUT
from ui.try_it.compare_views import build_slider, build_timelapse, build_vote
from ui.try_it.grid_table import ON_LOAD, grid_html

EMPTY = "The grid appears here: a column for each checkpoint, a row for each image, seed and strength."


def build(context: AppContext, live: Live) -> None:
    """Build the section."""
    jobs = ModelJobs(context, (JobKind.GRID, JobKind.TIMELAPSE))
    fields: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            run = run_list(live, "Run", "compare-run")
            _build_form(fields)
            plan = gr.HTML(elem_id="compare-plan")
            make = gr.Button("Draw the grid", variant="primary", elem_id="compare-make")
            add = gr.Button(ADD_TO_QUEUE, variant="primary", visible=False, elem_id="compare-make-queue")
            cancel = gr.Button("Cancel", visible=False, elem_id="compare-cancel")
            progress = gr.HTML(elem_id="compare-progress")
        with gr.Column(scale=5, min_width=420), gr.Tabs(elem_id="compare-tabs"):
            with gr.Tab("Grid", id="grid"):
                table = gr.HTML(note(EMPTY), js_on_load=ON_LOAD, elem_id="compare-grid")
                save, kind, saved = _build_export(context, live, run)
            with gr.Tab("Side by side", id="two"):
                slider = build_slider(context, live, run)
            with gr.Tab("Blind vote", id="vote"):
                vote = build_vote(context, live, run)
            with gr.Tab("Time-lapse", id="lapse"):
                build_timelapse(context, live, jobs, run)

    grid_views = [table, save, kind, saved, *slider.outputs, *vote.outputs]

    def show(name: str | None) -> list[Any]:
        grid = compare_jobs.grid_of(context, name)
        html = grid_html(grid, ImageCache(context.workspace).folder) if grid else note(EMPTY)
        exists = grid is not None
        exports = [gr.Button(visible=exists), gr.Radio(visible=exists), gr.File(visible=False)]
        return [html, *exports, *slider.show(grid), *vote.show(name, grid)]

    def show_run(name: str | None) -> list[Any]:
        entries, selected = compare_jobs.checkpoint_choices(context, name)
        images = compare_jobs.image_choices(context, name)
        return [
            gr.CheckboxGroup(entries, value=selected),
            selected,
            gr.Dropdown(images, value=[number for _, number in images[:2]]),
            *show(name),
        ]

    def refresh_checkpoints(name: str | None, selected: list[int], before: list[int]) -> list[Any]:
        entries, first = compare_jobs.checkpoint_choices(context, name)
        kept = compare_jobs.kept_selection(selected or (), before, first, {step for _, step in entries})
        return [gr.CheckboxGroup(entries, value=kept), first]

    def read(data: dict[Any, Any]) -> dict[str, Any]:
        return {name: data[widget] for name, widget in fields.items()}

    def show_size(data: dict[Any, Any]) -> str:
        try:
            return note(compare_jobs.size_text(compare_jobs.grid_request(read(data))))
        except UserError as error:
            return note(f"{error.what} {error.try_this}", "warning")

    def start(data: dict[Any, Any]) -> None:
        name, request = data[run], compare_jobs.grid_request(read(data))
        if not name:
            raise UserError("No grid was drawn.", "There is no run to compare.", "Train one first.")
        if request.live and jobs.training != name:
            request = replace(request, live=False)
        jobs.start(
            JobKind.GRID,
            "Drawing the grid",
            compare_jobs.grid_job(jobs, name, request),
            compare_jobs.queued_grid(name, request),
        )

    form = set(fields.values())  # a set: gradio then passes the values by widget, not by position
    proposed: Any = gr.State([])  # the selection of checkpoints that the user has not made
    live.on(run.change, show_run, [run], [fields["steps"], proposed, fields["images"], *grid_views])
    live.on([box.change for box in fields.values()], show_size, form, [plan])
    live.on([make.click, add.click], start, {run, *form})
    live.on(cancel.click, lambda: jobs.cancel())
    # Two states that change with the view; their change events then read the run that this page has selected.
    grid_number, checkpoints = gr.State(0), gr.State("")
    live.on(grid_number.change, show, [run], grid_views)
    live.on(checkpoints.change, refresh_checkpoints, [run, fields["steps"], proposed], [fields["steps"], proposed])
    live.outputs([grid_number], _grid_number, lambda view: [_grid_number(view)])
    live.outputs([checkpoints], _checkpoints_key, lambda view: [repr(_checkpoints_key(view))])
    live.outputs(
        [make, add, cancel, progress],
        lambda view: (jobs.job(view), jobs.blocked_by(view)),
        lambda view: _job_state(jobs, view),
    )


def _build_form(fields: dict[str, Any]) -> None:
    """Add the widgets that say what the grid consists of."""
    settings = declared()
    fields["steps"] = gr.CheckboxGroup([], label="Checkpoints", elem_id="compare-steps")
    fields["also"] = gr.CheckboxGroup([WITHOUT, LIVE], value=[WITHOUT], label="More columns", elem_id="compare-also")
    fields["images"] = gr.Dropdown(
        [],
        value=[],
        multiselect=True,
        label="Control images",
        info="Held-out images: the run was not trained on them.",
        elem_id="compare-pictures",
    )
    with gr.Row():
        fields["seeds"] = gr.Textbox(
            "0", label="Seeds", max_lines=1, info="For example 0, 1, 2.", elem_id="compare-seeds", min_width=130
        )
        fields["strengths"] = gr.Textbox(
            "",
            label="Control strengths",
            max_lines=1,
            placeholder="as in the run",
            info="For example 0.5, 1.",
            elem_id="compare-strengths",
            min_width=130,
        )
    with gr.Accordion("More", open=False):
        fields["prompts"] = gr.Textbox(
            label="Prompts", lines=2, info="One per line. Empty: each image's own caption.", elem_id="compare-prompts"
        )
        negative = settings["negative"]
        fields["negative"] = gr.Textbox(
            label=negative.label, max_lines=1, info=negative.help, elem_id="compare-negative"
        )
        fields["own"] = gr.File(
            label="Control images of your own",
            file_count="multiple",
            file_types=["image"],
            height=120,
            type="filepath",
            elem_id="compare-own",
        )
        fields["sampling"] = gr.Number(0, label=settings["steps"].label, precision=0, info="0: as in the run.")
        fields["guidance"] = gr.Number(0, label=settings["guidance"].label, info="0: as in the run.")


def _build_export(context: AppContext, live: Live, run: Any) -> tuple[Any, Any, Any]:
    """Add the widgets that save the grid as one image."""
    with gr.Row(elem_classes="deliver"):
        kind = gr.Radio(
            [("PNG", "png"), ("WebP (smaller)", "webp")], value="png", label="As one image", visible=False, scale=1
        )
        save = gr.Button("Save the grid", visible=False, elem_id="compare-save", scale=1)
    saved = gr.File(label="The grid as one image", visible=False, elem_id="compare-saved", height=90)

    def export(name: str | None, chosen: str) -> Any:
        from engine.evaluation.grid_sheet import save_sheet, sheet_path

        grid = compare_jobs.grid_of(context, name)
        opened = run_of(context, name)
        if grid is None or opened is None:
            raise UserError("There is no grid to save.", "None was drawn yet.", "Draw one first.")
        path = save_sheet(grid, ImageCache(context.workspace), sheet_path(opened.folder, chosen), chosen)  # type: ignore[arg-type]
        return gr.File(str(path), visible=True)

    live.on(save.click, export, [run, kind], [saved], show_progress="minimal")
    return save, kind, saved


def _grid_number(view: View) -> int:
    result = view.results.get(JobKind.GRID)
    return result.number if result else 0


def _checkpoints_key(view: View) -> tuple[Any, ...]:
    # At the end of a run its last loss check may make another checkpoint the best.
    return view.runs, view.shown_run, view.history.checkpoint, view.snapshot.alive


def _job_state(jobs: ModelJobs, view: View) -> list[Any]:
    busy, waits = jobs.job(view) is not None, bool(jobs.blocked_by(view))
    return [
        gr.Button(interactive=not busy, visible=not waits),
        gr.Button(visible=waits),
        gr.Button(visible=busy),
        jobs.progress_html(view),
    ]
