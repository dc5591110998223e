"""Messages are escaped, complete, and have units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.data.samples import Problem
from engine.errors import UserError
from engine.jobs.events import Progress
from engine.jobs.snapshot import Failure, JobSnapshot
from ui.page import messages, problems

NASTY = "<img src=x onerror=alert(1)>\"'&"


def test_the_panel_shows_all_three_sentences_and_a_report() -> None:
    panel = problems.problem_html(Failure("It broke.", "A cable.", "Plug it in.", "Traceback ..."))
    for words in ("It broke.", "A cable.", "Plug it in.", "Traceback ...", "Copy the report"):
        assert words in panel


@pytest.mark.parametrize("field", ["what", "why", "try_this", "details"])
def test_the_panel_escapes_everything(field: str) -> None:
    failure = replace(Failure("a", "b", "c", "d"), **{field: NASTY})
    assert "<img" not in problems.problem_html(failure)


def test_without_a_failure_there_is_no_panel() -> None:
    assert problems.problem_html(None) == ""


def test_lists_of_problems_escape_file_names_and_count_the_rest() -> None:
    listed = messages.problem_list([Problem(Path(NASTY), NASTY, NASTY, NASTY)], total=7)
    assert "<img" not in listed
    assert "6 more" in listed


def test_status_and_progress_escape_titles_and_labels() -> None:
    snapshot = JobSnapshot(alive=True, title=NASTY, progress=Progress(1, 2, NASTY))
    assert "<img" not in messages.status_line(snapshot) + messages.job_progress(snapshot)
    assert "<img" not in messages.job_progress(replace(snapshot, progress=None))
    assert "<img" not in messages.note(NASTY, NASTY)


def test_the_status_line_names_job_step_and_command() -> None:
    assert "Nothing is running" in messages.status_line(JobSnapshot())
    running = JobSnapshot(
        kind="train", alive=True, title="Training cats", phase="running", total_steps=400, start_step=3
    )
    assert "Training cats · step 3 of 400" in messages.status_line(running)
    assert "pausing" in messages.status_line(replace(running, asked="pause"))


def test_a_user_error_keeps_its_sentences_and_a_crash_is_described() -> None:
    assert problems.to_failure(UserError("A.", "B.", "C.")) == Failure("A.", "B.", "C.")
    assert "ValueError" in problems.to_failure(ValueError("odd")).why


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.2, "about 1 s"),
        (59, "about 59 s"),
        (200, "about 3 min"),
        (12_000, "about 3 h 20 min"),
        (40_000, "about 11 h"),
        (400_000, "about 4.6 days"),
    ],
)
def test_duration(seconds: float | None, words: str) -> None:
    assert messages.duration(seconds) == words
