"""What the comparison of checkpoints does: jobs of its own, or work of a training between two of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError
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
from engine.jobs.control import Cancelled, Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, JobRunner
from engine.jobs.snapshot import JobKind, JobSnapshot, Outcome
from engine.runs.run import Run
from ui.page.choices import checkpoints_of, run_of
from ui.page.context import AppContext
from ui.page.jobs import progress_events
from ui.page.messages import counted
from ui.page.view import View

if TYPE_CHECKING:
    from engine.inference.session import TrySession
    from engine.jobs.control import CancelToken

KIND, LAPSE = JobKind.GRID, JobKind.TIMELAPSE
LABEL = "Images of the grid, steps"
PAIRS_LISTED = 64
LOOK_SECONDS = 0.2

Draw = Callable[["TrySession", "CancelToken", Emit, int | None], Outcome]
"""draw(session, token, emit, live step): the last one None where no training lends its models."""


class Comparing:
    """Starts the jobs of this panel. While a training runs it lends its models; they are drawn between two steps.

    Such work has a runner of its own, so that its progress and its end are not the training's.
    """

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.beside = JobRunner()

    def start(self, kind: str, title: str, draw: Draw) -> None:
        """Draw with the models of the training that runs, or in a job of its own.

        Raises:
            Busy: another job is running, or this panel is at work already.
        """
        if self.training:
            self.context.dismiss_problem()
            self.beside.start(kind, title, self._told(self._between_steps(draw)))
        else:
            self._refuse_second(title)
            work = lambda token, emit: draw(self.context.try_session(), token, emit, None)  # noqa: E731
            self.context.start_job(kind, title, work)

    def start_beside(self, kind: str, title: str, work: Callable[[Token, Emit], Outcome]) -> None:
        """Work that needs no model and runs beside anything."""
        self._refuse_second(title)
        self.context.dismiss_problem()
        self.beside.start(kind, title, self._told(work))

    def _refuse_second(self, title: str) -> None:
        if self.beside.alive:
            self.beside.start("", title, lambda token, emit: "failed")  # says who is busy

    @property
    def training(self) -> str:
        """Name of the run that trains now; empty where none does."""
        snapshot = self.context.runner.snapshot
        if not snapshot.is_training:
            return ""
        return snapshot.run_folder.name if snapshot.run_folder else "a new run"

    def cancel(self) -> None:
        """End what this panel has started."""
        if self.beside.alive:
            self.beside.cancel()
        elif self.context.runner.snapshot.kind in (KIND, LAPSE):
            self.context.runner.cancel()

    def job(self, view: View) -> JobSnapshot | None:
        """The job of this panel, while it is at work."""
        for snapshot in (self.beside.snapshot, view.snapshot):
            if snapshot.alive and snapshot.kind in (KIND, LAPSE):
                return snapshot
        return None

    def blocked(self, view: View) -> str:
        """Title of the job that has to end first; empty where this panel can start."""
        snapshot = view.snapshot
        return snapshot.title if snapshot.alive and snapshot.kind not in (JobKind.TRAIN, KIND, LAPSE) else ""

    def _told(self, work: Callable[[Token, Emit], Outcome]) -> Callable[[Token, Emit], Outcome]:
        """Its faults go to the page's panel, as those of any job do."""

        def run(token: Token, emit: Emit) -> Outcome:
            try:
                return work(token, emit)
            except Cancelled:
                raise
            except BaseException as error:
                self.context.show_problem(error)
                raise

        return run

    def _between_steps(self, draw: Draw) -> Callable[[Token, Emit], Outcome]:
        def work(token: Token, emit: Emit) -> Outcome:
            from engine.training.lending import BorrowedSession, borrowing

            begun = False

            def do(session: Any, both: CancelToken) -> Outcome:
                nonlocal begun
                begun = True
                assert isinstance(session, BorrowedSession)
                return draw(session, both, emit, session.step)

            request = borrowing(self.context.workspace, do)
            emit(Message("Waiting for the next step of the training."))
            if not self.context.runner.send(request):
                raise UserError("Nothing was drawn.", "The training has just ended.", "Start it again.")
            while True:
                try:
                    return request.wait(LOOK_SECONDS)
                except TimeoutError:
                    if request.over:
                        raise
                if token.cancelled:
                    request.cancel()
                    if not begun:  # the training still prepares, and comes to it only then
                        raise Cancelled

        return work


def grid_job(comparing: Comparing, run_name: str, wish: GridRequest) -> Draw:
    """Draw a grid; pages see it grow column by column."""
    context = comparing.context

    def draw(session: TrySession, token: CancelToken, emit: Emit, live_step: int | None) -> Outcome:
        from engine.evaluation.grid_drawing import draw_grid

        run = Run(context.workspace.runs / run_name)

        def on_column(grid: Grid) -> None:
            write_grid(run, grid)
            context.set_result(KIND, where=run_name)

        own = live_step if comparing.training == run_name else None
        wanted = replace(wish, live=wish.live and own is not None)
        grid = draw_grid(context.workspace, run, wanted, session, token, progress_events(emit, LABEL), own, on_column)
        emit(Message(f"A grid of {len(grid.columns)} columns and {len(grid.rows)} rows."))
        context.set_result(KIND, where=run_name, note=f"Drawn {grid.made}.")
        return "completed"

    return draw


def timelapse_job(comparing: Comparing, run_name: str, image: int, beside: bool, kind: Literal["webp", "gif"]) -> Any:
    """Make a time-lapse and tell where it is."""
    context = comparing.context

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.evaluation.timelapse import frames_of, make_timelapse, timelapse_path

        run = Run(context.workspace.runs / run_name)
        frames = frames_of(run, image, beside)
        target = timelapse_path(run.folder, image, kind)
        make_timelapse(frames, target, kind, token=token, progress=progress_events(emit, "Frames"))
        words = f"{len(frames):,} steps, from {frames[0].step:,} to {frames[-1].step:,}. Saved as {target}."
        context.set_result(LAPSE, where=str(target), note=words)
        return "completed"

    return work


def grid_of(context: AppContext, name: str | None) -> Grid | None:
    """The last grid of a run."""
    run = run_of(context, name)
    return read_grid(run) if run else None


def checkpoint_choices(context: AppContext, name: str | None) -> tuple[list[tuple[str, int]], list[int]]:
    """Entries for the list of checkpoints, oldest first, and which of them are chosen at first."""
    run = run_of(context, name)
    steps = sorted(checkpoint.step for checkpoint in checkpoints_of(context, name))
    if run is None or not steps:
        return [], []
    best = best_step(run)
    entries = [(f"step {step:,}" + (" ★ best" if step == best else ""), step) for step in steps]
    return entries, default_steps(steps, best, 4)


def image_choices(context: AppContext, name: str | None) -> list[tuple[str, int]]:
    """Entries for the list of held-out images."""
    run = run_of(context, name)
    pairs = held_out_pairs(context.workspace, run) if run else []
    return [(f"{number + 1}: {pair.caption[:60]}", number) for number, pair in enumerate(pairs[:PAIRS_LISTED])]


def wish_of(
    steps: list[int],
    also: list[str],
    images: list[int],
    prompts: str,
    seeds: str,
    strengths: str,
    own: list[str] | None,
    negative: str,
    sampling: float,
    guidance: float,
) -> GridRequest:
    """What stands in the form. Raises UserError where a number cannot be read."""
    return GridRequest(
        steps=tuple(steps or ()),
        live=LIVE in (also or ()),
        without=WITHOUT in (also or ()),
        pictures=tuple(images or ()),
        controls=tuple(Path(path) for path in own or ()),
        prompts=tuple(line.strip() for line in (prompts or "").splitlines() if line.strip()),
        seeds=numbers(seeds or "0", int),
        strengths=numbers(strengths or "", float),
        negative=negative or "",
        sampling_steps=int(sampling or 0),
        guidance=float(guidance or 0),
    )


WITHOUT, LIVE = "Without ControlNet", "The live weights, while it trains"


def plan_words(wish: GridRequest) -> str:
    """How large the grid will be."""
    columns = len(wish.steps or ()) + wish.without + wish.live
    rows = (len(wish.pictures) + len(wish.controls)) * max(1, len(wish.prompts))
    rows *= max(1, len(wish.seeds)) * max(1, len(wish.strengths))
    return (
        f"{counted(columns, 'column', 'columns')} by {counted(rows, 'row', 'rows')}: "
        f"{counted(columns * rows, 'image', 'images')}. Those that were drawn before are kept."
    )
