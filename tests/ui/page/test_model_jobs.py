"""Jobs that draw with a run's models, on their own and with the models of a training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.jobs.control import BorrowRequest, Token
from engine.jobs.events import Progress, RunOpened
from engine.jobs.runner import Busy, Emit
from engine.jobs.snapshot import JobKind
from engine.training import lending
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.model_jobs import ModelJobs, ModelWork

KIND, OTHER = JobKind.GRID, JobKind.TIMELAPSE


@pytest.fixture
def jobs(workspace: Workspace) -> ModelJobs:
    return ModelJobs(AppContext(workspace), (KIND, OTHER))


class Lent:
    """In place of the session that a training lends."""

    step = 42


@pytest.fixture
def between_steps(jobs: ModelJobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[threading.Event]:
    """A training that serves requests while the event is set, until it is paused."""
    lend: Callable[..., BorrowRequest] = lambda _workspace, draw: BorrowRequest(  # noqa: E731
        lambda _, request: draw(Lent(), request)
    )
    monkeypatch.setattr(lending, "borrowing", lend)
    serving, ready = threading.Event(), threading.Event()

    def train(token: Token, emit: Emit) -> str:
        emit(RunOpened(tmp_path / "2026_birds", "birds", 0, 100, 1))
        ready.set()
        while token.stop_requested is None:
            if serving.wait(0.01):
                for request in token.take_borrow_requests():
                    request.do(None)
        return "paused"

    jobs.context.runner.start("train", "Training birds", train)
    assert ready.wait(20)
    yield serving
    jobs.context.runner.pause()
    assert jobs.context.runner.wait(20)


def draw_one(seen: list[Any]) -> ModelWork:
    """Work that draws something and notes in which thread, and with which session."""

    def work(_token: Token, emit: Emit, use_models: Callable[..., None]) -> Any:
        def draw(session: Any, token: Any) -> None:
            token.raise_if_cancelled()
            emit(Progress(1, 2, "Drawing"))
            seen.append((threading.current_thread().name, getattr(session, "step", None)))

        use_models(draw)
        return "completed"

    return work


def test_while_a_run_trains_its_thread_draws_and_the_progress_is_separate(
    jobs: ModelJobs, between_steps: threading.Event
) -> None:
    seen: list[Any] = []
    assert jobs.training == "2026_birds"
    jobs.start(KIND, "Drawing the grid", draw_one(seen))
    view = jobs.context.view()
    assert seen == [] and jobs.job(view) is not None and not jobs.blocked_by(view)
    assert "Waiting for the next training step" in jobs.progress_html(view)
    with pytest.raises(Busy, match="Drawing the grid is still running"):
        jobs.start(KIND, "Drawing the grid", draw_one(seen))
    between_steps.set()
    assert jobs.side.wait(20)
    assert seen == [("job-train", 42)]
    assert jobs.side.snapshot.outcome == "completed"
    assert jobs.job(jobs.context.view()) is None
    assert jobs.context.runner.alive and jobs.context.runner.snapshot.progress is None


def test_cancel_ends_the_drawing_and_not_the_training(jobs: ModelJobs, between_steps: threading.Event) -> None:
    seen: list[Any] = []
    jobs.cancel()
    jobs.start(KIND, "Drawing the grid", draw_one(seen))
    jobs.cancel()
    assert jobs.side.wait(20), "it need not wait for the next training step"
    assert jobs.side.snapshot.outcome == "cancelled"
    between_steps.set()
    jobs.start(KIND, "Drawing the grid", draw_one(seen))
    assert jobs.side.wait(20)
    assert len(seen) == 1
    assert jobs.context.runner.alive and not jobs.context.runner.snapshot.asked


def test_an_error_of_the_drawing_is_shown_as_a_problem(jobs: ModelJobs, between_steps: threading.Event) -> None:
    def work(_token: Token, _emit: Emit, use_models: Callable[..., None]) -> Any:
        def draw(*_: Any) -> None:
            raise UserError("No grid.", "Because.", "Try this.")

        use_models(draw)

    jobs.start(KIND, "Drawing the grid", work)
    between_steps.set()
    assert jobs.side.wait(20)
    problem = jobs.context.view().problem
    assert problem is not None and problem.what == "No grid."
    assert jobs.context.runner.alive


def test_a_training_that_ends_before_it_lends_its_models_is_a_problem(
    jobs: ModelJobs, between_steps: threading.Event
) -> None:
    jobs.start(KIND, "Drawing the grid", draw_one([]))
    jobs.context.runner.pause()
    assert jobs.side.wait(20)
    problem = jobs.context.view().problem
    assert problem is not None and "ended" in problem.why


def test_without_a_training_it_is_a_job_of_the_window(jobs: ModelJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.context, "try_session", lambda: None)
    seen: list[Any] = []
    jobs.start(KIND, "Drawing the grid", draw_one(seen))
    assert jobs.context.runner.wait(20)
    assert seen == [("job-grid", None)]
    jobs.start_without_models(OTHER, "Making the time-lapse", lambda token, emit: "completed")
    assert jobs.side.wait(20)


def test_another_job_has_to_end_first(jobs: ModelJobs) -> None:
    end = threading.Event()
    jobs.context.start_job("export", "Exporting", lambda token, emit: "completed" if end.wait(20) else "failed")
    view = jobs.context.view()
    assert jobs.blocked_by(view) == "Exporting" and jobs.job(view) is None
    assert "“Exporting” is running" in jobs.progress_html(view)
    with pytest.raises(Busy, match="Exporting is still running"):
        jobs.start(KIND, "Drawing the grid", draw_one([]))
    end.set()
    assert jobs.context.runner.wait(20)
    assert jobs.progress_html(jobs.context.view()) == ""
