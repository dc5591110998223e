"""More views of a grid and of a run: two images under a slider, a blind vote, a time-lapse."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.evaluation.grid import Grid
from engine.evaluation.image_cache import ImageCache
from engine.evaluation.votes import Comparison, VoteResult, keep_vote, next_comparison, read_votes, tally, vote_on
from engine.jobs.snapshot import JobKind
from ui.page.choices import run_of
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.model_jobs import ModelJobs
from ui.page.view import View
from ui.try_it import compare_jobs

CONTROL = -1
"""In place of a column's number: the control image."""
NO_GRID = "Draw a grid first."


@dataclass(frozen=True)
class GridView:
    """A part of the page that shows the grid: its components, and a function that returns their updates."""

    outputs: list[Any]
    show: Callable[..., list[Any]]


def build_slider(context: AppContext, live: Live, run: Any) -> GridView:
    """Build the slider: two images of one row, one over the other, with a handle between them."""
    message = gr.HTML(note(NO_GRID))
    with gr.Column(visible=False) as choice:
        row = gr.Dropdown([], label="Row", elem_id="two-row")
        with gr.Row():
            left = gr.Dropdown([], label="Left", elem_id="two-left", min_width=120)
            right = gr.Dropdown([], label="Right", elem_id="two-right", min_width=120)
    slider = gr.ImageSlider(
        show_label=False, type="filepath", visible=False, max_height=640, buttons=["fullscreen"], elem_id="two-slider"
    )

    def images(grid: Grid | None, at: Any, one: Any, other: Any) -> Any:
        if grid is None or at is None or at >= len(grid.rows):
            return gr.ImageSlider(visible=False)
        drawn = ImageCache(context.workspace)
        keys = [_key(grid, at, one), _key(grid, at, other)]
        if any(key is None or not drawn.has(key) for key in keys):
            return gr.ImageSlider(visible=False)
        return gr.ImageSlider((str(drawn.path(str(keys[0]))), str(drawn.path(str(keys[1])))), visible=True)

    def show(grid: Grid | None) -> list[Any]:
        if grid is None:
            hidden = [gr.Column(visible=False), gr.skip(), gr.skip(), gr.skip(), gr.ImageSlider(visible=False)]
            return [note(NO_GRID), *hidden]
        columns = [("control image", CONTROL), *((c.title, n) for n, c in enumerate(grid.columns))]
        rows = [(f"{n + 1}: {r.prompt} · seed {r.seed} · {r.strength:g}", n) for n, r in enumerate(grid.rows)]
        one, other = 0, _best_column(grid)
        return [
            note("Drag the handle to compare the left image with the right one."),
            gr.Column(visible=True),
            gr.Dropdown(rows, value=0),
            gr.Dropdown(columns, value=one),
            gr.Dropdown(columns, value=other),
            images(grid, 0, one, other),
        ]

    def changed(name: str | None, at: Any, one: Any, other: Any) -> Any:
        return images(compare_jobs.grid_of(context, name), at, one, other)

    for box in (row, left, right):
        live.on(box.input, changed, [run, row, left, right], [slider])
    return GridView([message, choice, row, left, right, slider], show)


def _key(grid: Grid, row: int, column: int) -> str | None:
    if column == CONTROL:
        return grid.rows[row].control
    return grid.cells[row][column] if 0 <= column < len(grid.columns) else None


def _best_column(grid: Grid) -> int:
    """Return the number of the best checkpoint's column, or else of the last one."""
    places = [n for n, column in enumerate(grid.columns) if column.step is not None and column.step == grid.best]
    return places[0] if places else len(grid.columns) - 1


def build_vote(context: AppContext, live: Live, run: Any) -> GridView:
    """Build the blind vote: two images without names, which are shown after the vote."""
    message = gr.HTML(note(NO_GRID), elem_id="vote-words")
    with gr.Column(visible=False) as booth:
        with gr.Row():
            options: dict[str, Any] = {
                "interactive": False,
                "type": "filepath",
                "height": 300,
                "buttons": ["fullscreen"],
                "min_width": 100,
            }
            left = gr.Image(label="A", elem_id="vote-left", **options)
            control = gr.Image(label="Control image", elem_id="vote-control", **options)
            right = gr.Image(label="B", elem_id="vote-right", **options)
        with gr.Row(elem_classes="buttons"):
            buttons = {
                "left": gr.Button("A is better", elem_id="vote-a"),
                "same": gr.Button("No difference", elem_id="vote-same"),
                "right": gr.Button("B is better", elem_id="vote-b"),
                "skip": gr.Button("Skip", elem_id="vote-skip"),
            }
    counted = gr.HTML(elem_id="vote-tally")
    pair, skipped = gr.State(None), gr.State([])

    def offer(name: str | None, grid: Grid | None, passed: list[Comparison], result: str = "") -> list[Any]:
        """Show the next pair, below the ``result`` of the last vote."""
        opened = run_of(context, name)
        if grid is None or opened is None:
            return [note(NO_GRID), gr.Column(visible=False), None, None, None, None, passed, ""]
        votes, drawn = read_votes(opened.folder), ImageCache(context.workspace)
        found = next_comparison(grid, votes, random.Random(), passed)
        table = _tally_html(tally(grid, votes))
        if found is None:
            done = "You have compared every pair in this grid. To continue, draw one with more images or seeds."
            few = "There is nothing to compare: the grid needs two checkpoints that draw differently."
            end = note(done if votes or passed else few)
            return [result + end, gr.Column(visible=False), None, None, None, None, passed, table]
        keys = grid.cells[found.row][found.left], grid.rows[found.row].control, grid.cells[found.row][found.right]
        images = [str(drawn.path(key)) if key and drawn.has(key) else None for key in keys]
        question = f"Which one is better? “{grid.rows[found.row].prompt or 'no prompt'}”"
        head = f"{result}<p class='headline'>{escape(question)}</p>"
        return [head, gr.Column(visible=True), *images, (found, grid.made), passed, table]

    def show(name: str | None, grid: Grid | None) -> list[Any]:
        return offer(name, grid, [])

    def press(choice: str) -> Callable[..., list[Any]]:
        def pressed(name: str | None, now: Any, passed: list[Comparison]) -> list[Any]:
            grid, opened = compare_jobs.grid_of(context, name), run_of(context, name)
            if grid is None or opened is None or now is None or now[1] != grid.made:
                return offer(
                    name, grid, [], note("The grid has changed in the meantime, so this vote was not counted.")
                )
            if choice == "skip":
                return offer(name, grid, [*passed, now[0]])
            keep_vote(opened.folder, vote_on(grid, now[0], choice))  # type: ignore[arg-type]
            one, other = grid.columns[now[0].left].title, grid.columns[now[0].right].title
            return offer(name, grid, passed, note(f"Counted. A was {one}, B was {other}.", "good"))

        return pressed

    outputs = [message, booth, left, control, right, pair, skipped, counted]
    for choice, button in buttons.items():
        live.on(button.click, press(choice), [run, pair, skipped], outputs)
    return GridView(outputs, show)


def _tally_html(count: VoteResult) -> str:
    """Return the result as a sentence, and a table with a row for each checkpoint."""
    if not count.votes:
        return note("No votes yet.")
    rows = "".join(
        f"<tr><td>{escape(s.title)}</td><td>{s.votes:,}</td>"
        + (
            f"<td>{s.share:.0%}</td><td>{s.low:.0%} to {s.high:.0%}</td></tr>"
            if s.votes
            else "<td>–</td><td>–</td></tr>"
        )
        for s in count.columns
    )
    head = "<tr><th>Checkpoint</th><th>Comparisons</th><th>Preferred</th><th>95 % interval</th></tr>"
    return f"<p class='note'>{escape(count.sentence)}</p><table class='figures'>{head}{rows}</table>"


def build_timelapse(context: AppContext, live: Live, jobs: ModelJobs, run: Any) -> None:
    """Build the time-lapse: one preview of the run over all its steps, as an animation."""
    gr.HTML(note("One preview image over the whole run, from the images drawn during training."))
    image = gr.Dropdown([], label="Preview", elem_id="lapse-picture")
    with gr.Row(elem_classes="deliver"):
        with gr.Column(scale=2, min_width=190):
            kind = gr.Radio([("WebP", "webp"), ("GIF", "gif")], value="webp", label="Format")
            beside = gr.Checkbox(True, label="With control image and original")
        make = gr.Button("Make the time-lapse", elem_id="lapse-make", scale=1, min_width=210)
    shown = gr.Image(
        visible=False, interactive=False, type="filepath", show_label=False, elem_id="lapse-shown", buttons=[]
    )
    file = gr.File(visible=False, label="The time-lapse", height=90, elem_id="lapse-file")
    message = gr.HTML(elem_id="lapse-words")

    def previews(name: str | None) -> Any:
        from engine.evaluation.timelapse import images_of

        opened = run_of(context, name)
        captions = images_of(opened) if opened else []
        return gr.Dropdown([(f"{n + 1}: {c[:60]}", n) for n, c in enumerate(captions)], value=0 if captions else None)

    def start(name: str | None, at: int | None, chosen: str, both: bool) -> None:
        from engine.evaluation.timelapse import images_of

        opened = run_of(context, name)
        if not name or opened is None or not images_of(opened):
            raise UserError(
                "There is no time-lapse to make.",
                "The run has no preview images yet.",
                "Let it train until it has drawn some.",
            )
        # ``at`` is None if the run had no previews yet when the page was opened.
        job = compare_jobs.timelapse_job(context, name, at or 0, both, chosen)  # type: ignore[arg-type]
        jobs.start_without_models(JobKind.TIMELAPSE, "Making the time-lapse", job)

    live.on(run.change, previews, [run], [image])
    live.outputs(
        [image],
        lambda view: (view.runs, view.shown_run, bool(view.history.preview)),
        lambda view: [previews(view.shown_run or next(iter(view.runs), None))],
    )
    inputs = [run, image, kind, beside]
    live.on(make.click, start, inputs)

    def show(view: View) -> list[Any]:
        result = view.results.get(JobKind.TIMELAPSE)
        if result is None or not Path(result.where).is_file():
            return [gr.Image(visible=False), gr.File(visible=False), ""]
        return [gr.Image(result.where, visible=True), gr.File(result.where, visible=True), note(result.note, "good")]

    live.outputs([shown, file, message], lambda view: view.results.get(JobKind.TIMELAPSE), show)
