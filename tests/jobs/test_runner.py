"""One job at a time; its thread reports how it ended."""

from __future__ import annotations

import errno
import threading

import pytest

from engine.errors import UserError
from engine.hub.download import LABEL
from engine.jobs.control import Token
from engine.jobs.events import Event, Message, PhaseChanged, Progress, RunOpened, StepDone
from engine.jobs.faults import describe_crash
from engine.jobs.runner import Busy, Emit, JobRunner, progress_events
from engine.jobs.snapshot import CURVE_POINTS, Curve, JobSnapshot, fold
from engine.queue.data_jobs import import_progress


def torch_error(kind: str, words: str) -> Exception:
    """As torch raises it; these modules do not load torch."""
    return type(kind, (RuntimeError,), {})(words)


def finish(runner: JobRunner) -> JobSnapshot:
    assert runner.wait(60)
    return runner.snapshot


def test_a_job_that_ends_well() -> None:
    runner = JobRunner()

    def work(token: Token, emit: Emit) -> str:
        emit(Message("hello"))
        return "completed"

    runner.start("train", "Training x", work)
    snapshot = finish(runner)
    assert (snapshot.outcome, snapshot.alive, snapshot.failure) == ("completed", False, None)
    assert snapshot.log == ("hello",)


def test_a_second_start_is_refused_and_harms_nothing() -> None:
    runner, gate = JobRunner(), threading.Event()
    runner.start("train", "Training x", lambda token, emit: "completed" if gate.wait(60) else "failed")
    with pytest.raises(Busy, match="Training x is still running"):
        runner.start("train", "Training y", lambda token, emit: "completed")
    assert runner.snapshot.title == "Training x"
    gate.set()
    assert finish(runner).outcome == "completed"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("It broke.", "Because.", "Try this."), ("It broke.", "Because.", "Try this.")),
        (MemoryError(), ("memory ran out",)),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), ("memory ran out", "smaller")),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), ("disk is full", "/x/y")),
        (ZeroDivisionError("division by zero"), ("unexpected error", "ZeroDivisionError")),
    ],
)
def test_a_failure_says_what_why_and_what_to_try(error: Exception, words: tuple[str, ...]) -> None:
    runner = JobRunner()

    def work(token: Token, emit: Emit) -> str:
        raise error

    runner.start("train", "Training x", work)
    snapshot = finish(runner)
    assert snapshot.outcome == "failed"
    assert snapshot.failure is not None
    text = " ".join([snapshot.failure.what, snapshot.failure.why, snapshot.failure.try_this])
    for word in words:
        assert word in text
    assert snapshot.failure.details
    assert any("error" in line for line in snapshot.log)


def test_cancel_ends_the_work() -> None:
    runner, started = JobRunner(), threading.Event()

    def work(token: Token, emit: Emit) -> str:
        started.set()
        while True:
            token.raise_if_cancelled()

    runner.start("extract", "Making maps", work)
    started.wait(60)
    assert runner.cancel()
    assert runner.snapshot.asked == "cancel" or not runner.alive
    assert finish(runner).outcome == "cancelled"
    assert not runner.cancel(), "nothing runs any more"


def test_save_and_sample_are_taken_once() -> None:
    runner, seen = JobRunner(), []
    asked, done = threading.Event(), threading.Event()

    def work(token: Token, emit: Emit) -> str:
        asked.wait(60)
        seen.extend([token.take_save_request(), token.take_save_request()])
        seen.extend([token.take_preview_request(), token.take_preview_request()])
        done.set()
        return "completed"

    runner.start("train", "Training x", work)
    runner.save_now()
    runner.preview_now()
    asked.set()
    finish(runner)
    assert seen == [True, False, True, False]


def test_the_eta_is_the_median_of_recent_steps() -> None:
    snapshot = fold(JobSnapshot(), RunOpened(None, "x", 0, 100, 4), 0.0)
    snapshot = fold(snapshot, PhaseChanged("running"), 0.0)
    for step in range(1, 11):
        seconds = 100.0 if step == 5 else 2.0  # one slow step (a checkpoint) does not move the estimate
        snapshot = fold(snapshot, StepDone(step, step * 4, 0.1, 1e-5, seconds), float(step))
    assert snapshot.seconds_left == 2.0 * 90


def test_the_eta_of_preparing_is_from_its_pace() -> None:
    snapshot = fold(JobSnapshot(), PhaseChanged("preparing"), 0.0)
    snapshot = fold(snapshot, Progress(0, 100, "Encoding images"), 10.0)
    snapshot = fold(snapshot, Progress(25, 100, "Encoding images"), 20.0)
    assert snapshot.seconds_left == pytest.approx(30.0)


def test_a_curve_of_a_week_stays_small_and_keeps_its_span() -> None:
    curve = Curve()
    for step in range(1, 100_001):
        curve = curve.add(step, 1 / step)
    assert CURVE_POINTS / 2 - 1 <= len(curve.points) <= CURVE_POINTS
    assert curve.points[0][0] < 1000
    assert curve.points[-1][0] > 99_000


def test_what_cannot_be_shown_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(snapshot: JobSnapshot, event: object, now: float) -> JobSnapshot:
        if isinstance(event, StepDone):
            raise OverflowError("a curve of infinite length")
        return fold(snapshot, event, now)

    monkeypatch.setattr("engine.jobs.runner.fold", broken)
    runner = JobRunner()

    def work(token: Token, emit: Emit) -> str:
        emit(StepDone(1, 4, 0.5, 1e-5, 0.1))
        emit(Message("still here"))
        return "completed"

    runner.start("train", "Training x", work)
    snapshot = finish(runner)
    assert snapshot.outcome == "completed" and snapshot.log[-1] == "still here"
    assert "infinite length" in snapshot.log[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch_error("AcceleratorError", "CUDA error: unspecified launch failure\nmore"), "stopped answering"),
        (RuntimeError("CUDA error: device-side assert triggered"), "start it again"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "driver"),
        (torch_error("AcceleratorError", "CUDA error: out of memory"), "memory ran out"),
        (torch_error("OutOfMemoryError", "no more"), "memory ran out"),
        (RuntimeError("The size of tensor a (4) must match"), "unexpected error"),
        (PermissionError(13, "Permission denied", "x.png"), "virus scanner"),
        (OSError(errno.EIO, "Input/output error", "x.png"), "disk is connected"),
        (FileNotFoundError(2, "No such file", "x.png"), "x.png"),
        (OSError(errno.EMFILE, "Too many open files"), "unexpected error"),
        (ImportError("DLL load failed while importing _C"), "--repair"),
    ],
)
def test_faults_that_everybody_meets_have_words_of_their_own(error: Exception, words: str) -> None:
    failure = describe_crash(error)
    assert words in " ".join([failure.what, failure.why, failure.try_this])
    assert "\n" not in failure.why


def test_a_lost_card_is_known_by_the_error_beneath_as_well() -> None:
    try:
        try:
            raise RuntimeError("CUDA error: unspecified launch failure")
        except RuntimeError as lost:
            raise ValueError("could not clear up") from lost
    except ValueError as error:
        assert "stopped answering" in describe_crash(error).what


def test_a_night_of_sleep_does_not_ruin_the_time_that_is_left() -> None:
    night = 8 * 3600.0
    snapshot = fold(JobSnapshot(), RunOpened(None, "x", 0, 100, 4), 0.0)  # type: ignore[arg-type]
    snapshot = fold(snapshot, PhaseChanged("running"), 0.0)
    for step, seconds in ((1, night), (2, 2.0)):
        snapshot = fold(snapshot, StepDone(step, 4 * step, 0.5, 1e-5, seconds), night)
    assert snapshot.seconds_left == 98 * 2.0

    snapshot = JobSnapshot()
    for done, now in ((0, 0.0), (10, 20.0), (20, 40.0), (21, 42.0 + night), (22, 44.0 + night)):
        snapshot = fold(snapshot, Progress(done, 100, "Images encoded"), now)
        snapshot = fold(snapshot, Message("x"), now + 1)
    assert snapshot.seconds_left == pytest.approx(78 * 2.0, rel=0.02)


def test_slow_work_is_not_taken_for_sleep() -> None:
    snapshot = JobSnapshot()
    for done in range(5):
        snapshot = fold(snapshot, Progress(done, 10, "Images encoded"), 300.0 * done)
    assert snapshot.seconds_left == 6 * 300.0


def test_a_fixed_label_replaces_the_works_own_but_for_those_that_are_kept() -> None:
    events: list[Event] = []
    for report in (progress_events(events.append), progress_events(events.append, "Read", own=("Unpacked",))):
        report(1, 2, "a.png")
        report(2, 2, "Unpacked")
    assert [event.label for event in events if isinstance(event, Progress)] == ["a.png", "Unpacked", "Read", "Unpacked"]


def test_an_import_keeps_the_labels_of_its_stages_wherever_it_runs() -> None:
    events: list[Event] = []
    import_progress(events.append)(1, 9, LABEL)
    import_progress(events.append)(1, 9, "folder/a.png")
    assert [event.label for event in events if isinstance(event, Progress)] == [LABEL, "Images read"]
