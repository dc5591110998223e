"""What is asked of a job in progress is done by the job's own thread, and ends apart from it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.events import Progress
from engine.jobs.runner import Busy, Emit, JobRunner
from engine.jobs.snapshot import JobSnapshot


class Host:
    """A job that goes on step by step as it is told to, and serves visits after each step."""

    def __init__(self, lends: bool = True) -> None:
        self.runner = JobRunner()
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._end = False
        self.runner.start("train", "Training x", self._work, lends=lends)

    def _work(self, token: Token, emit: Emit) -> str:
        while self._go.acquire(timeout=10) and not self._end:
            while (visit := token.take_visit()) is not None:
                visit.serve("the models", token)
            self._done.release()
            if token.stop:
                return "paused"
        return "completed"

    def step(self) -> None:
        self._go.release()
        assert self._done.acquire(timeout=10)

    def end(self) -> None:
        self._end = True
        self._go.release()
        assert self.runner.wait(10)

    @property
    def visit(self) -> JobSnapshot:
        found = self.runner.visit
        assert found is not None
        return found


@pytest.fixture
def host() -> Host:
    return Host()


def drawing(seen: list[object]) -> Callable[..., str]:
    def work(lent: object, token: Token, emit: Emit) -> str:
        seen.append((lent, threading.current_thread().name))
        emit(Progress(1, 2, "Drawing"))
        return "completed"

    return work


def test_a_visit_waits_for_the_next_step_and_gets_what_the_job_lends(host: Host) -> None:
    seen: list[object] = []
    host.runner.ask("grid", "Drawing a grid", drawing(seen))
    assert (host.visit.phase, host.visit.alive, seen) == ("waiting", True, [])
    host.step()
    assert seen == [("the models", "job-train")]
    assert (host.visit.outcome, host.visit.alive) == ("completed", False)
    assert host.runner.snapshot.progress is None, "the job's own figures are not the visit's"
    host.end()
    assert host.runner.snapshot.outcome == "completed"


def test_a_fault_of_a_visit_does_not_end_the_job(host: Host) -> None:
    def work(lent: object, token: Token, emit: Emit) -> str:
        raise UserError("No.", "Because.", "Try this.")

    host.runner.ask("grid", "Drawing a grid", work)
    host.step()
    assert host.visit.outcome == "failed"
    assert host.visit.failure is not None and host.visit.failure.what == "No."
    host.step()
    assert host.runner.alive
    host.end()


def test_one_thing_at_a_time_and_only_of_who_lends(host: Host) -> None:
    host.runner.ask("grid", "Drawing a grid", drawing([]))
    with pytest.raises(Busy, match="Drawing a grid is still waited for"):
        host.runner.ask("try", "Drawing a picture", drawing([]))
    host.end()
    with pytest.raises(Busy):
        host.runner.ask("try", "Drawing a picture", drawing([]))
    other = Host(lends=False)
    with pytest.raises(Busy, match="No training is running"):
        other.runner.ask("try", "Drawing a picture", drawing([]))
    other.end()


def test_who_waits_when_the_job_ends_is_told(host: Host) -> None:
    seen: list[object] = []
    host.runner.ask("grid", "Drawing a grid", drawing(seen))
    host.end()
    assert (host.visit.outcome, host.visit.alive, seen) == ("failed", False, [])
    assert host.visit.failure is not None and "Training x" in host.visit.failure.why


def test_cancelling_a_visit_leaves_the_job_alone(host: Host) -> None:
    seen: list[object] = []
    host.runner.ask("grid", "Drawing a grid", drawing(seen))
    assert host.runner.cancel_visit()
    assert host.visit.outcome == "cancelled"
    host.step()
    assert seen == [] and host.runner.alive
    assert not host.runner.cancel_visit(), "nothing is asked any more"
    host.runner.ask("grid", "Drawing a grid", drawing(seen))
    host.step()
    assert len(seen) == 1
    host.end()


def test_a_pause_does_not_wait_for_a_visit(host: Host) -> None:
    """Pictures that are being drawn give way to the owner of the training."""

    def work(lent: object, token: Token, emit: Emit) -> str:
        token.raise_if_cancelled()
        host.runner.pause()
        token.raise_if_cancelled()
        return "completed"

    host.runner.ask("grid", "Drawing a grid", work)
    host.step()
    assert host.visit.outcome == "cancelled"
    assert host.runner.wait(10)
    assert host.runner.snapshot.outcome == "paused"
