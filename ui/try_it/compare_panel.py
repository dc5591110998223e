"""Compare checkpoints: the same images by several of them, in a grid. Used by the Try it page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.image_cache import ImageCache
from ui.page.choices import run_list, run_of
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress, note
from ui.page.view import View
from ui.try_it import compare_jobs
from ui.try_it.compare_jobs import KIND, LIVE, WITHOUT, Comparing
from ui.try_it.compare_views import build_lapse, build_slider, build_vote
from ui.try_it.grid_table import ON_LOAD, grid_html

EMPTY = "The grid appears here: a column for each checkpoint, a row for each image, seed and strength."


def build(context: AppContext, live: Live) -> None:
    """Everything of the section."""
    work = Comparing(context)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            run = run_list(live, "Run", "compare-run")
            steps = gr.CheckboxGroup([], label="Checkpoints", elem_id="compare-steps")
            also = gr.CheckboxGroup([WITHOUT, LIVE], value=[WITHOUT], label="Also", elem_id="compare-also")
            images = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                label="Control images",
                info="Held-out images: the run was not trained on them.",
                elem_id="compare-pictures",
            )
            with gr.Row():
                seeds = gr.Textbox(
                    "0", label="Seeds", max_lines=1, info="For example 0, 1, 2.", elem_id="compare-seeds", min_width=130
                )
                strengths = gr.Textbox(
                    "",
                    label="Strengths",
                    max_lines=1,
                    placeholder="as in the run",
                    info="For example 0.5, 1.",
                    elem_id="compare-strengths",
                    min_width=130,
                )
            with gr.Accordion("More", open=False):
                prompts = gr.Textbox(
                    label="Prompts",
                    lines=2,
                    info="One a line. Empty: each image's own caption.",
                    elem_id="compare-prompts",
                )
                negative = gr.Textbox(label="Negative prompt", max_lines=1, info="What the images should not show.")
                own = gr.File(
                    label="Condition maps of yours",
                    file_count="multiple",
                    file_types=["image"],
                    height=120,
                    type="filepath",
                )
                sampling = gr.Number(0, label="Sampling steps", precision=0, info="0: as in the run.")
                guidance = gr.Number(0, label="Guidance scale", info="0: as in the run.")
            plan = gr.HTML(elem_id="compare-plan")
            make = gr.Button("Draw the grid", variant="primary", elem_id="compare-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="compare-cancel")
            progress = gr.HTML(elem_id="compare-progress")
        with gr.Column(scale=5, min_width=420), gr.Tabs(elem_id="compare-tabs"):
            with gr.Tab("Grid", id="grid"):
                table = gr.HTML(note(EMPTY), js_on_load=ON_LOAD, elem_id="compare-grid")
                save, kind, saved = _build_export(context, run)
            with gr.Tab("Two of them", id="two"):
                slider = build_slider(context, run)
            with gr.Tab("Blind vote", id="vote"):
                vote = build_vote(context, run)
            with gr.Tab("Time-lapse", id="lapse"):
                build_lapse(context, live, work, run)

    form = [steps, also, images, prompts, seeds, strengths, own, negative, sampling, guidance]
    shown = [table, save, kind, saved, *slider.outputs, *vote.outputs]

    def show(name: str | None) -> list[Any]:
        grid = compare_jobs.grid_of(context, name)
        words = grid_html(grid, ImageCache(context.workspace).folder) if grid else note(EMPTY)
        there = grid is not None
        exports = [gr.Button(visible=there), gr.Radio(visible=there), gr.File(visible=False)]
        return [words, *exports, *slider.show(grid), *vote.show(name, grid)]

    def show_run(name: str | None) -> list[Any]:
        entries, chosen = compare_jobs.checkpoint_choices(context, name)
        listed = compare_jobs.image_choices(context, name)
        return [
            gr.CheckboxGroup(entries, value=chosen),
            gr.Dropdown(listed, value=[number for _, number in listed[:2]]),
            *show(name),
        ]

    def more_checkpoints(name: str | None, chosen: list[int]) -> Any:
        """What was ticked stays so, unless it was removed to make room."""
        entries, first = compare_jobs.checkpoint_choices(context, name)
        there = {step for _, step in entries}
        return gr.CheckboxGroup(entries, value=[step for step in chosen or () if step in there] or first)

    def told(*values: Any) -> str:
        try:
            return note(compare_jobs.plan_words(compare_jobs.wish_of(*values)))
        except UserError as error:
            return note(f"{error.what} {error.try_this}", "warning")

    def start(name: str | None, *values: Any) -> None:
        wish = compare_jobs.wish_of(*values)
        if not name:
            raise UserError("No grid was drawn.", "There is no run to compare.", "Train one first.")
        if wish.live and work.training != name:
            wish = replace(wish, live=False)
        work.start(KIND, "Drawing the grid", compare_jobs.grid_job(work, name, wish))

    run.change(context.catch_errors(show_run), [run], [steps, images, *shown], **NO_PROGRESS)
    gr.on([box.change for box in form], told, form, [plan], **NO_PROGRESS)
    live.refresh_after(make.click(context.catch_errors(start, has_outputs=False), [run, *form], None, **NO_PROGRESS))
    live.refresh_after(cancel.click(lambda: work.cancel(), None, None, **NO_PROGRESS))
    drawn, kept = gr.State(0), gr.State("")
    drawn.change(context.catch_errors(show), [run], shown, **NO_PROGRESS)
    kept.change(context.catch_errors(more_checkpoints), [run, steps], [steps], **NO_PROGRESS)
    live.outputs([drawn], _number, lambda view: [_number(view)])
    live.outputs([kept], _kept, lambda view: [repr(_kept(view))])
    live.outputs(
        [make, cancel, progress], lambda view: (work.job(view), work.blocked(view)), lambda view: _job(work, view)
    )


def _build_export(context: AppContext, run: Any) -> tuple[Any, Any, Any]:
    """The grid as one image."""
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

    save.click(context.catch_errors(export), [run, kind], [saved], show_progress="minimal", api_visibility="private")
    return save, kind, saved


def _number(view: View) -> int:
    result = view.results.get(KIND)
    return result.number if result else 0


def _kept(view: View) -> tuple[Any, ...]:
    return view.runs, view.shown_run, view.history.checkpoint


def _job(work: Comparing, view: View) -> list[Any]:
    job, blocked = work.job(view), work.blocked(view)
    words = ""
    if job is not None:
        waits = job.progress is None and work.training
        words = note("Waiting for the next step of the training …") if waits else job_progress(job)
    elif blocked:
        words = note(f"“{blocked}” is running: wait for it, then draw.")
    return [gr.Button(interactive=job is None and not blocked), gr.Button(visible=job is not None), words]
