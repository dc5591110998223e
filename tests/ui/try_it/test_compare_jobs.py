"""Comparing checkpoints: what the form says, where the work is done, and what the page shows of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.evaluation.grid import Column, Grid, RowLabel
from engine.jobs.control import Token
from engine.jobs.events import Progress, RunOpened
from engine.jobs.runner import Busy, Emit
from engine.training.lending import BorrowedSession
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.try_it import compare_jobs
from ui.try_it.compare_jobs import KIND, LAPSE, WITHOUT, Comparing, plan_words, wish_of
from ui.try_it.grid_table import grid_html, served

FORM: dict[str, Any] = {
    "steps": [100, 300], "also": [WITHOUT], "images": [0, 2], "prompts": " a cat \n\na dog", "seeds": "0, 4-5",
    "strengths": "0.5; 1", "own": None, "negative": "", "sampling": 0, "guidance": 0,
}  # fmt: skip


@pytest.fixture
def work(workspace: Workspace) -> Comparing:
    return Comparing(AppContext(workspace))


class Lent(BorrowedSession):
    """What a training lends, without a training."""

    def __init__(self) -> None:
        pass

    @property
    def step(self) -> int:
        return 42


@pytest.fixture
def between_steps(work: Comparing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[threading.Event]:
    """A training that serves requests as long as the event is set, until it is paused."""
    from engine.jobs.control import BorrowRequest
    from engine.training import lending

    answer = lambda _workspace, draw: BorrowRequest(lambda _, request: draw(Lent(), request))  # noqa: E731
    monkeypatch.setattr(lending, "borrowing", answer)
    serving, ready = threading.Event(), threading.Event()

    def train(token: Token, emit: Emit) -> str:
        emit(RunOpened(tmp_path / "2026_birds", "birds", 0, 100, 1))
        ready.set()
        while token.stop is None:
            if serving.wait(0.01):
                for request in token.take_borrow_requests():
                    request.do(None)
        return "paused"

    work.context.runner.start("train", "Training birds", train)
    assert ready.wait(20)
    yield serving
    work.context.runner.pause()
    assert work.context.runner.wait(20)


def draw_one(seen: list[Any]) -> Any:
    def draw(session: Any, token: Any, emit: Emit, live_step: int | None) -> str:
        token.raise_if_cancelled()
        emit(Progress(1, 2, "Drawing"))
        seen.append((threading.current_thread().name, live_step))
        return "completed"

    return draw


def test_the_form_is_a_wish_and_its_size_is_told() -> None:
    wish = wish_of(**FORM)
    assert (wish.steps, wish.without, wish.live, wish.prompts) == ((100, 300), True, False, ("a cat", "a dog"))
    assert (wish.seeds, wish.strengths) == ((0, 4, 5), (0.5, 1.0))
    assert plan_words(wish).startswith("3 columns by 24 rows: 72 images")
    assert plan_words(wish_of(**{**FORM, "prompts": "", "strengths": "", "seeds": ""})).startswith(
        "3 columns by 2 rows"
    )
    with pytest.raises(UserError, match="“many” was not understood"):
        wish_of(**{**FORM, "seeds": "many"})


def test_while_a_run_trains_its_thread_draws_and_the_progress_is_apart(
    work: Comparing, between_steps: threading.Event
) -> None:
    seen: list[Any] = []
    assert work.training == "2026_birds"
    work.start(KIND, "Drawing the grid", draw_one(seen))
    assert seen == [] and work.job(work.context.view()) is not None, "it waits for the next step"
    with pytest.raises(Busy, match="Drawing the grid is still running"):
        work.start(KIND, "Drawing the grid", draw_one(seen))
    between_steps.set()
    assert work.beside.wait(20)
    assert seen == [("job-train", 42)]
    assert work.beside.snapshot.outcome == "completed"
    assert work.job(work.context.view()) is None
    assert work.context.runner.alive and work.context.runner.snapshot.progress is None


def test_cancel_ends_the_drawing_and_not_the_training(work: Comparing, between_steps: threading.Event) -> None:
    seen: list[Any] = []
    work.start(KIND, "Drawing the grid", draw_one(seen))
    work.cancel()
    assert work.beside.wait(20), "it need not wait for the training's next step"
    assert work.beside.snapshot.outcome == "cancelled"
    between_steps.set()
    work.start(KIND, "Drawing the grid", draw_one(seen))
    assert work.beside.wait(20)
    assert len(seen) == 1 and work.context.runner.alive


def test_a_fault_of_the_drawing_is_on_the_panel(work: Comparing, between_steps: threading.Event) -> None:
    def draw(*_: Any) -> str:
        raise UserError("No grid.", "Because.", "Try this.")

    work.start(KIND, "Drawing the grid", draw)
    between_steps.set()
    assert work.beside.wait(20)
    problem = work.context.view().problem
    assert problem is not None and problem.what == "No grid."
    assert work.context.runner.alive


def test_a_training_that_ends_first_is_told(work: Comparing, between_steps: threading.Event) -> None:
    work.start(KIND, "Drawing the grid", draw_one([]))
    work.context.runner.pause()
    assert work.beside.wait(20)
    problem = work.context.view().problem
    assert problem is not None and "ended" in problem.why


def test_without_a_training_it_is_a_job_like_any_other(work: Comparing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work.context, "try_session", lambda: None)
    seen: list[Any] = []
    work.start(KIND, "Drawing the grid", draw_one(seen))
    assert work.context.runner.wait(20)
    assert seen == [("job-grid", None)]
    work.start_beside(LAPSE, "Making the time-lapse", lambda token, emit: "completed")
    assert work.beside.wait(20)


@pytest.fixture
def grid() -> Grid:
    columns = (Column("without ControlNet", None, ""), Column("step 100", 100, "a"), Column("step 200", 200, "b"))
    rows = (RowLabel("held-out image 1", "a <b>cat</b>", 3, 0.5, "control", 64, 48),)
    return Grid("birds", "now", columns, rows, (("k1", "k2", None),), {}, ("step 200: <gone>",), best=100)


def test_the_table_marks_the_best_and_escapes_what_people_wrote(grid: Grid, tmp_path: Path) -> None:
    html = grid_html(grid, tmp_path)
    assert html.count("best by the verdict") == 1
    assert html.index("step 100") < html.index("best by the verdict") < html.index("step 200</th>")
    assert "a &lt;b&gt;cat" in html and "<b>cat" not in html and "&lt;gone&gt;" in html
    assert html.count("<img src=") == 3 and html.count("not drawn") == 1
    assert f"src='{served(tmp_path / 'k2.webp')}'" in html


def test_addresses_of_odd_folders_are_quoted() -> None:
    assert served(Path("/tmp/a b'c#d/k.webp")) == "gradio_api/file=/tmp/a%20b%27c%23d/k.webp"


def test_a_run_that_is_gone_has_no_grid(work: Comparing) -> None:
    assert compare_jobs.grid_of(work.context, "gone") is None
    assert compare_jobs.checkpoint_choices(work.context, None) == ([], [])
    assert compare_jobs.image_choices(work.context, "gone") == []
