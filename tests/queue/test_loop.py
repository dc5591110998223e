"""The queue in the window: it goes on after a failure, holds after a pause, and waits for whatever else is running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from engine.errors import UserError
from engine.jobs.control import Control, Token
from engine.jobs.runner import Emit, JobRunner
from engine.jobs.snapshot import JobKind
from engine.queue.folder import QueueFolder
from engine.queue.job import JobReport, QueuedJob
from engine.queue.kinds import KINDS
from engine.queue.loop import QueueLoop
from engine.queue.perform import perform
from engine.workspace.paths import Workspace


class Step(QueuedJob):
    """A job of the tests: it does what its name says."""

    kind: ClassVar[str] = "step"
    job_kind: ClassVar[JobKind] = JobKind.CHECK
    name: str
    done: ClassVar[list[str]] = []
    may_end: ClassVar[threading.Event] = threading.Event()

    @property
    def title(self) -> str:
        return f"Doing {self.name}"

    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        Step.done.append(self.name)
        if self.name == "fail":
            raise UserError("It failed.", "The dataset is gone.", "Make it again.")
        if self.name == "crash":
            raise ZeroDivisionError("division by zero")
        while self.name in ("long", "train") and not Step.may_end.wait(0.01):
            if self.name == "train" and token.stop_requested:
                return JobReport(token.stop_outcome, "")
            if self.name == "long":
                token.raise_if_cancelled()
        return JobReport("completed", f"Made {self.name}.")


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setitem(KINDS, "step", Step)
    Step.done.clear()
    Step.may_end.clear()
    yield Step.done
    Step.may_end.set()


@pytest.fixture
def runner() -> JobRunner:
    return JobRunner()


@pytest.fixture
def loop(workspace: Workspace, runner: JobRunner) -> QueueLoop:
    return QueueLoop(workspace, runner)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def outcomes(loop: QueueLoop) -> dict[str, str]:
    return {result.title: result.outcome for result in loop.folder.results()}


def test_it_goes_on_after_failures(loop: QueueLoop, steps: list[str]) -> None:
    for name in ("a", "fail", "crash", "b"):
        loop.add(Step(name=name))
    assert loop.wait(60)
    assert steps == ["a", "fail", "crash", "b"]
    by_title = {result.title: result for result in loop.folder.results()}
    assert by_title["Doing a"].words == "Made a."
    assert by_title["Doing fail"].outcome == "failed"
    assert by_title["Doing fail"].words == "It failed. The dataset is gone. Make it again."
    assert "division by zero" in by_title["Doing crash"].words
    assert by_title["Doing b"].outcome == "completed"
    assert loop.folder.entries() == []


def test_it_waits_for_a_job_that_was_not_queued(loop: QueueLoop, runner: JobRunner, steps: list[str]) -> None:
    end = threading.Event()

    def by_hand(token: Token, emit: Emit) -> str:
        end.wait()
        return "completed"

    runner.start("try", "Drawing an image", by_hand)  # type: ignore[arg-type]
    loop.add(Step(name="a"))
    assert loop.next_is_due
    assert not loop.wait(0.05)
    assert steps == []
    end.set()
    assert loop.wait(60)
    assert steps == ["a"]


@pytest.mark.parametrize(("press", "outcome"), [("stop", "stopped"), ("cancel", "cancelled")])
def test_stop_and_cancel_end_one_job_and_the_next_begins(
    loop: QueueLoop, runner: JobRunner, steps: list[str], press: str, outcome: str
) -> None:
    name = "train" if press == "stop" else "long"
    loop.add(Step(name=name))
    loop.add(Step(name="next"))
    until(lambda: steps == [name])
    getattr(runner, press)()
    assert loop.wait(60)
    assert steps == [name, "next"]
    assert outcomes(loop) == {f"Doing {name}": outcome, "Doing next": "completed"}


@pytest.mark.parametrize("name", ["train", "long"])
def test_a_paused_job_waits_in_front_and_the_queue_holds(
    loop: QueueLoop, runner: JobRunner, steps: list[str], name: str
) -> None:
    """Whoever pauses wants the machine. A job that cannot pause ends as cancelled, but is not lost."""
    loop.add(Step(name=name))
    loop.add(Step(name="next"))
    until(lambda: steps == [name])
    runner.pause()
    assert loop.wait(60)
    assert loop.held
    assert [entry.title for entry in loop.folder.waiting()] == [f"Doing {name}", "Doing next"]
    Step.may_end.set()
    loop.go_on()
    assert loop.wait(60)
    assert outcomes(loop) == {f"Doing {name}": "completed", "Doing next": "completed"}


def test_nothing_begins_while_the_app_closes(workspace: Workspace, runner: JobRunner, steps: list[str]) -> None:
    """A job that is cancelled by the closing waits again, in front."""
    closing = threading.Event()
    loop = QueueLoop(workspace, runner, closing=closing.is_set)
    loop.add(Step(name="long"))
    loop.add(Step(name="next"))
    until(lambda: steps == ["long"])
    closing.set()
    runner.cancel()
    assert loop.wait(60)
    assert steps == ["long"]
    assert loop.folder.results() == []
    assert [entry.title for entry in loop.folder.waiting()] == ["Doing long", "Doing next"]


def test_what_an_earlier_session_left_waits_until_it_is_told(workspace: Workspace, steps: list[str]) -> None:
    """As after kill -9 in the middle of the first job."""
    queue = QueueFolder(workspace)
    for name in ("a", "b"):
        queue.add("step", f"Doing {name}", {"name": name})
    queue.take()
    loop = QueueLoop(workspace, JobRunner())
    assert loop.held
    assert not loop.next_is_due
    assert steps == []
    loop.go_on()
    assert loop.wait(60)
    assert steps == ["a", "b"]


def test_entries_that_nobody_can_do_fail_with_a_sentence(workspace: Workspace, steps: list[str]) -> None:
    """Damaged, of a kind that only a newer version knows, and with settings that do not fit."""
    queue = QueueFolder(workspace)
    damaged = queue.add("step", "A", {})
    next(queue.folder.glob(f"*{damaged.id}.json")).write_text("{", encoding="utf-8")
    queue.add("dream", "Dreaming of birds", {})
    queue.add("step", "Doing what", {"wrong": 1})
    queue.add("step", "Doing a", {"name": "a"})
    loop = QueueLoop(workspace, JobRunner())
    loop.go_on()
    assert loop.wait(60)
    assert steps == ["a"]
    failed = [result for result in loop.folder.results() if result.outcome == "failed"]
    assert len(failed) == 3
    assert "Dreaming of birds cannot be done." in failed[1].words
    assert "wrong" in failed[0].words


def test_the_window_is_told_before_and_after(workspace: Workspace, runner: JobRunner) -> None:
    told: list[str] = []
    loop = QueueLoop(
        workspace,
        runner,
        before=lambda job: told.append(f"before {job.title}"),
        after=lambda job, report: told.append(report.words),
    )
    loop.add(Step(name="a"))
    assert loop.wait(60)
    assert told == ["before Doing a", "Made a."]


def test_an_error_of_the_loop_itself_is_told_and_the_job_still_waits(workspace: Workspace, runner: JobRunner) -> None:
    told: list[BaseException] = []

    def broken(job: QueuedJob) -> None:
        raise OSError("the disk is gone")

    loop = QueueLoop(workspace, runner, before=broken, failed=told.append)
    loop.add(Step(name="a"))
    until(lambda: told)
    assert loop.held
    assert [entry.title for entry in loop.folder.waiting()] == ["Doing a"]


def test_ctrl_c_twice_leaves_the_job_in_the_queue(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = QueueFolder(workspace)
    queue.add("step", "Doing a", {"name": "a"})

    def interrupted(*_: object) -> JobReport:
        raise KeyboardInterrupt

    monkeypatch.setattr(Step, "do", interrupted)
    entry = queue.take()
    assert entry is not None
    with pytest.raises(KeyboardInterrupt):
        perform(workspace, queue, entry, Control().token, lambda event: None)
    assert [entry.title for entry in queue.waiting()] == ["Doing a"]
