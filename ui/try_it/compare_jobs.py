"""The jobs of the checkpoint comparison (a grid, a time-lapse), and what its form offers and holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.evaluation.grid import (
    Grid,
    GridRequest,
    best_step,
    default_steps,
    held_out_pairs,
    numbers,
    read_grid,
    write_grid,
)
from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.run_jobs import DrawGrid
from engine.runs.run import Run
from ui.page.choices import checkpoints_of, run_of
from ui.page.context import AppContext
from ui.page.model_jobs import Draw, ModelJobs, ModelWork

if TYPE_CHECKING:
    from engine.inference.session import TrySession
    from engine.jobs.control import CancelToken

LABEL = "Images of the grid, steps"
PAIRS_LISTED = 64
WITHOUT, LIVE = "Without ControlNet", "The live weights, while it trains"


def grid_job(jobs: ModelJobs, run_name: str, request: GridRequest) -> ModelWork:
    """Return the job that draws a grid. Pages show it grow column by column."""
    context = jobs.context

    def work(_token: Token, emit: Emit, use_models: Callable[[Draw], None]) -> Outcome:
        def draw(session: TrySession, token: CancelToken) -> None:
            from engine.evaluation.grid_drawing import draw_grid

            run = Run(context.workspace.runs / run_name)

            def on_column(grid: Grid) -> None:
                write_grid(run, grid)
                context.set_result(JobKind.GRID, where=run_name)

            live_step = session.step if jobs.training == run_name else None
            wanted = replace(request, live=request.live and live_step is not None)
            progress = progress_events(emit, LABEL)
            grid = draw_grid(context.workspace, run, wanted, session, token, progress, live_step, on_column)
            emit(Message(f"A grid of {counted(len(grid.columns), 'column')} and {counted(len(grid.rows), 'row')}."))
            context.set_result(JobKind.GRID, where=run_name, note=f"Drawn {grid.made}.")

        use_models(draw)
        return "completed"

    return work


def queued_grid(run_name: str, request: GridRequest) -> DrawGrid:
    """Return the grid as a job of the queue. It runs when no training is in progress, so it has no live weights."""
    fields = {name: getattr(request, name) for name in DrawGrid.model_fields if name != "run"}
    return DrawGrid(run=run_name, **fields)


def timelapse_job(context: AppContext, run_name: str, image: int, beside: bool, kind: Literal["webp", "gif"]) -> Work:
    """Return the job that makes a time-lapse of one preview. ``beside``: with its control image and original."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.evaluation.timelapse import frames_of, make_timelapse, timelapse_path

        run = Run(context.workspace.runs / run_name)
        frames = frames_of(run, image, beside)
        target = timelapse_path(run.folder, image, kind)
        make_timelapse(frames, target, kind, token=token, progress=progress_events(emit, "Frames"))
        text = f"{counted(len(frames), 'step')}, from {frames[0].step:,} to {frames[-1].step:,}. Saved as {target}."
        context.set_result(JobKind.TIMELAPSE, where=str(target), note=text)
        return "completed"

    return work


def grid_of(context: AppContext, name: str | None) -> Grid | None:
    """Return the last grid of a run, or None."""
    run = run_of(context, name)
    return read_grid(run) if run else None


def checkpoint_choices(context: AppContext, name: str | None) -> tuple[list[tuple[str, int]], list[int]]:
    """Return the entries of the checkpoint list, oldest first, and the steps that are selected at first."""
    run = run_of(context, name)
    steps = sorted(checkpoint.step for checkpoint in checkpoints_of(context, name))
    if run is None or not steps:
        return [], []
    best = best_step(run)
    entries = [(f"step {step:,}" + (" ★ best" if step == best else ""), step) for step in steps]
    return entries, default_steps(steps, best, 4)


def kept_selection(
    selected: Sequence[int], proposed: Sequence[int], first: list[int], existing: Collection[int]
) -> list[int]:
    """The steps that are selected once the list of checkpoints has changed.

    Args:
        selected: by the user, or as they were proposed.
        proposed: when the list last changed.
        first: proposed now. They take the place of an earlier proposal that the user has not changed.
        existing: steps of the list as it is now.
    """
    if sorted(selected) == sorted(proposed):
        return first
    return [step for step in selected if step in existing] or first


def image_choices(context: AppContext, name: str | None) -> list[tuple[str, int]]:
    """Return the entries of the list of held-out images."""
    run = run_of(context, name)
    pairs = held_out_pairs(context.workspace, run) if run else []
    return [(f"{number + 1}: {pair.caption[:60]}", number) for number, pair in enumerate(pairs[:PAIRS_LISTED])]


def grid_request(form: Mapping[str, Any]) -> GridRequest:
    """Read the form. Empty fields: as the run draws its own previews.

    Raises:
        UserError: a number cannot be read.
    """
    also = form["also"] or ()
    return GridRequest(
        steps=tuple(form["steps"] or ()),
        live=LIVE in also,
        without=WITHOUT in also,
        pictures=tuple(form["images"] or ()),
        controls=tuple(Path(path) for path in form["own"] or ()),
        prompts=tuple(line.strip() for line in (form["prompts"] or "").splitlines() if line.strip()),
        seeds=numbers(form["seeds"] or "0", int),
        strengths=numbers(form["strengths"] or "", float),
        negative=form["negative"] or "",
        sampling_steps=int(form["sampling"] or 0),
        guidance=float(form["guidance"] or 0),
    )


def size_text(request: GridRequest) -> str:
    """Say how large the grid will be."""
    columns = len(request.steps or ()) + request.without + request.live
    rows = (len(request.pictures) + len(request.controls)) * max(1, len(request.prompts))
    rows *= max(1, len(request.seeds)) * max(1, len(request.strengths))
    return (
        f"{counted(columns, 'column')} by {counted(rows, 'row')}: "
        f"{counted(columns * rows, 'image')}. Images that were drawn before are reused."
    )
