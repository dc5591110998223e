"""The queue in the window: adding while a job runs, the panel, its buttons, and what the page's title tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from engine.demo.sets import make_demo_set
from engine.errors import UserError
from engine.jobs.events import Progress, StepDone
from engine.jobs.snapshot import JobKind, JobSnapshot
from engine.queue.data_jobs import ImportDataset, MakeMaps
from engine.queue.entries import Entry, Result
from engine.workspace.paths import Workspace
from ui.page.close_button import question
from ui.page.context import AppContext
from ui.page.queueing import ended_words, percent_of
from ui.page.states import Action, TrainTabState
from ui.page.view import QueueView
from ui.queue.queue_html import badge, list_html, results_html, seconds_left
from ui.queue.queue_panel import row_handler

ROBINS = MakeMaps(dataset="robins", type="canny")
OWLS = MakeMaps(dataset="owls", type="canny")


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


@pytest.fixture
def busy(context: AppContext) -> Iterator[threading.Event]:
    """A job that runs until the event is set."""
    end = threading.Event()

    def work(token: Any, emit: Any) -> str:
        emit(Progress(3, 10, "Images read"))
        end.wait(30)
        return "completed"

    context.start_job(JobKind.DATASET, "Reading cats", work)
    yield end
    end.set()
    context.queue.wait(60)


def never(token: Any, emit: Any) -> str:
    raise AssertionError("it was to wait")


def test_a_job_that_is_started_while_another_runs_waits_and_then_runs(
    context: AppContext, busy: threading.Event, paired_folder: Any
) -> None:
    read = ImportDataset(place=str(paired_folder), name="pairs")
    context.start_job(JobKind.DATASET, read.title, never, read)
    view = context.view()
    assert [entry.title for entry in view.queue.waiting] == ["Reading pairs"]
    assert view.problem is None
    busy.set()
    assert context.queue.wait(20)
    view = context.view()
    assert view.datasets == ("pairs",)
    assert view.results[JobKind.DATASET].note.startswith("pairs: 12 images, 12 captions.")
    assert view.focus_dataset == "", "what the user is working on stays as it is"
    assert [result.outcome for result in view.queue.results] == ["completed"]


def test_a_job_that_the_queue_overtakes_by_a_moment_is_added_to_it(
    context: AppContext, busy: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AppContext, "must_queue", False)  # what it looked like a moment before
    context.start_job(JobKind.CONDITIONS, ROBINS.title, never, ROBINS)
    assert [entry.title for entry in context.view().queue.waiting] == ["Making maps of robins"]
    assert context.view().problem is None


def test_closing_says_that_jobs_wait() -> None:
    assert "2 jobs stay in the queue until the next start." in question(JOB, False, 2)
    assert "queue" not in question(JOB, False)


def test_a_double_click_adds_one_job(context: AppContext, busy: threading.Event) -> None:
    for job in (ROBINS, ROBINS, OWLS):
        context.add_to_queue(job)
    assert [entry.settings["dataset"] for entry in context.view().queue.waiting] == ["robins", "owls"]


def test_a_failure_in_the_queue_is_shown_and_kept(context: AppContext) -> None:
    """The dataset was deleted meanwhile."""
    context.add_to_queue(ROBINS)
    assert context.queue.wait(60)
    view = context.view()
    assert view.problem is not None
    (result,) = view.queue.results
    assert result.outcome == "failed"
    assert "robins" in result.words


def test_while_a_run_trains_the_next_one_is_set_up_and_queued(context: AppContext) -> None:
    make_demo_set(context.workspace, "circles", 8)
    context.focus_on("demo-circles-8")
    context.files_changed()
    end = threading.Event()
    folder = context.workspace.runs / "one"
    folder.mkdir()
    (folder / "run.json").write_text("{}", encoding="utf-8")

    def train(token: Any, emit: Any) -> str:
        from engine.jobs.events import RunOpened

        emit(RunOpened(folder, "one", 0, 10, 2))
        end.wait(30)
        return "paused"

    context.runner.start(JobKind.TRAIN, "Training one", train)  # type: ignore[arg-type]
    try:
        while not context.runner.snapshot.run_folder:
            pass
        view = context.view()
        assert view.shown_run == "one"
        assert view.train.buttons[Action.NEW].title == "Set up the next run"
        context.show_run("")
        view = context.view()
        assert view.shown_run == ""
        assert not view.train.active
        assert view.train.state is TrainTabState.READY
        assert "Training one" in view.train.hint
        assert view.train.buttons[Action.START].title == "Add to queue"
        context.start_training()
        assert [entry.kind for entry in context.view().queue.waiting] == ["train"]
        context.show_run("one")  # back to the run in progress
        assert context.view().train.active
    finally:
        end.set()
    assert context.queue.wait(60)
    assert context.view().queue.held, "it was paused: whoever pauses wants the machine"
    assert context.queue.folder.results() == []


def test_the_row_s_buttons_move_remove_and_stop(context: AppContext, busy: threading.Event) -> None:
    for job in (ROBINS, OWLS):
        context.add_to_queue(job)
    act, (robins, owls) = row_handler(context), context.view().queue.waiting
    act(SimpleNamespace(action="up", id=owls.id))
    assert [entry.id for entry in context.view().queue.waiting] == [owls.id, robins.id]
    act(SimpleNamespace(action="down", id=owls.id))
    act(SimpleNamespace(action="remove", id=robins.id))
    assert [entry.id for entry in context.view().queue.waiting] == [owls.id]
    with pytest.raises(UserError, match="no longer waiting"):
        act(SimpleNamespace(action="up", id=robins.id))
    with pytest.raises(UserError, match="cannot be done"):
        act(SimpleNamespace(action="__class__", id=owls.id))
    act(SimpleNamespace(action="cancel"))
    assert context.view().snapshot.asked == "cancel"


ENTRY = Entry("a1", "train", "Training <b>", {}, "2026-05-01 22:10", 600.0, 1000)
JOB = JobSnapshot(
    kind=JobKind.TRAIN,
    title="Training cats",
    alive=True,
    phase="running",
    total_steps=400,
    last_step=StepDone(100, 400, 0.1, 1e-5, 2.0),
    recent_seconds=(2.0,),
)


def test_the_panel_says_what_waits_and_how_long_it_takes() -> None:
    queue = QueueView((ENTRY, replace(ENTRY, id="a2", title="Exporting", seconds=0.0)))
    assert badge(queue) == "2 waiting"
    assert badge(replace(queue, held=True)) == "2 on hold"
    assert badge(QueueView()) == "Queue"
    failed = Result("a3", "maps", "Making maps", "failed", "", 1.0, "")
    assert badge(replace(queue, results=(failed, replace(failed, outcome="stopped")))) == "2 waiting, 1 failed"
    assert badge(QueueView(results=(failed,))) == "Queue, 1 failed"
    html = list_html(JOB, queue)
    assert "2 jobs are waiting. At least 20 min until all are done; for some jobs the time is not known." in html
    assert "Training &lt;b&gt;" in html and "<b>" not in html
    assert "running, 25 %, about 10 min left" in html
    assert 'aria-label="Earlier: Exporting"' in html
    assert html.count(" disabled") == 2, "the first cannot come earlier, the last not later"
    assert seconds_left(JOB, QueueView((ENTRY,))) == (1200.0, True)


def test_the_results_say_why_a_job_failed() -> None:
    result = Result("a1", "maps", "Making maps of <i>", "failed", "No dataset <u>.", 75.0, "2026-05-01 23:00")
    html = results_html(QueueView(results=(result,)))
    assert "failed after 75 s, 2026-05-01 23:00" in html
    assert "No dataset &lt;u&gt;." in html and "<i>" not in html
    assert results_html(QueueView()) == ""


def test_the_title_hears_numbers_and_no_names(context: AppContext, busy: threading.Event) -> None:
    context.add_to_queue(ROBINS)
    while context.progress()["percent"] is None:
        pass
    progress = context.progress()
    assert progress == {"running": True, "percent": 30, "waiting": 1, "ended": 0, "words": ""}
    busy.set()
    assert context.queue.wait(60)
    progress = context.progress()
    assert progress["ended"] == context.runner.snapshot.version
    assert progress["words"] == "Failed: condition maps"
    assert "robins" not in str(progress)


def test_how_it_ended_in_words() -> None:
    assert percent_of(JOB) == 25
    assert percent_of(replace(JOB, alive=False)) is None
    ended = replace(JOB, alive=False, outcome="completed")
    assert ended_words(ended, ()) == "Done: training"
    assert ended_words(ended, ("completed", "failed", "completed")) == "Done: 3 jobs, 1 failed"


def test_an_image_that_was_drawn_is_no_end_to_tell(context: AppContext) -> None:
    context.start_job(JobKind.TRY, "Drawing an image", lambda token, emit: "completed")
    assert context.runner.wait(60)
    assert context.progress()["ended"] == 0
