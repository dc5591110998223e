"""Runs one job in a background thread and folds its events into the snapshot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from engine.errors import UserError
from engine.jobs.control import Control, Token
from engine.jobs.ending import attempt, describe_crash
from engine.jobs.events import Event, Message
from engine.jobs.snapshot import JobSnapshot, Outcome, fold
from engine.jobs.visits import Visit, VisitWork

__all__ = ["Busy", "Emit", "JobRunner", "Work", "describe_crash"]

Emit = Callable[[Event], None]
Work = Callable[[Token, Emit], Outcome]


class Busy(UserError):
    """A second job was asked for while one is running."""


class JobRunner:
    """One job at a time: the graphics card has one owner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot = JobSnapshot()
        self._control: Control | None = None
        self._thread: threading.Thread | None = None
        self._visit: Visit | None = None

    @property
    def snapshot(self) -> JobSnapshot:
        return self._snapshot

    @property
    def alive(self) -> bool:
        """From the live thread itself, never from a stored flag."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def visit(self) -> JobSnapshot | None:
        """The last work that was asked of a job in progress, waiting, at work or ended; see ``ask``."""
        return self._visit.snapshot if self._visit is not None else None

    @property
    def lends(self) -> bool:
        """A job is running that works for others between two of its steps."""
        return self.alive and self._control is not None and self._control.lends

    def start(self, kind: str, title: str, work: Work, initial: JobSnapshot | None = None, lends: bool = False) -> None:
        """Start ``work(token, emit)`` in a thread of its own.

        Args:
            initial: what the pages show before the first event (curves of a resumed run); default: empty.
            lends: the work serves what is asked of it by ``ask`` (it looks at ``token.take_visit``).

        Raises:
            Busy: another job is running.
        """
        with self._lock:
            if self.alive:
                raise Busy(
                    f"{title} was not started.",
                    f"{self._snapshot.title} is still running, and the computer does one job at a time.",
                    "Wait for it, or pause or cancel it first.",
                )
            control = Control(lends)
            first = initial or JobSnapshot()
            self._snapshot = replace(
                first, version=self._snapshot.version + 1, kind=kind, title=title, alive=True, asked="", outcome=None,
                failure=None, phase="preparing", updated=time.monotonic(),
            )  # fmt: skip
            self._control = control
            self._thread = threading.Thread(target=self._run, args=(work, control), name=f"job-{kind}", daemon=True)
            self._thread.start()

    def _run(self, work: Work, control: Control) -> None:
        outcome, failure = attempt(lambda: work(control.token, self._emit))
        if failure is not None:
            self._emit(Message(f"{failure.what} {failure.why}", "error"))
        with self._lock:
            self._snapshot = replace(
                self._snapshot, version=self._snapshot.version + 1, alive=False, asked="", outcome=outcome,
                failure=failure, phase="", progress=None, updated=time.monotonic(),
            )  # fmt: skip
        for visit in control.close():
            visit.turn_away(f"“{self._snapshot.title}” ended before it came to it.")

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._snapshot = fold(self._snapshot, event, time.monotonic())

    def ask(self, kind: str, title: str, work: VisitWork) -> None:
        """Have the running job do ``work(host, token, emit)`` between two of its steps; ``visit`` tells how it goes.

        Raises:
            Busy: nothing runs that lends its models, or it is busy with an earlier wish.
        """
        with self._lock:
            if self._visit is not None and self._visit.alive:
                why = f"{self._visit.snapshot.title} is still waited for; the training does one thing at a time."
                raise Busy(f"{title} was not started.", why, "Wait for it, or cancel it first.")
            visit = Visit(kind, title, work)
            if self._control is None or not self._snapshot.alive or not self._control.visit(visit):
                raise Busy(f"{title} was not started.", "No training is running that could do it.", "Start it again.")
            self._visit = visit

    def cancel_visit(self) -> bool:
        """End what was asked of the running job; the job itself goes on. False where nothing is asked."""
        visit = self._visit
        if visit is None or not visit.alive:
            return False
        visit.cancel()
        return True

    def _ask(self, what: str) -> bool:
        with self._lock:
            control = self._control
            if not self.alive or control is None:
                return False
            getattr(control, what)()
            if what in ("pause", "stop", "cancel"):
                self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, asked=what)  # type: ignore[arg-type]
            return True

    def pause(self) -> bool:
        """Ask for it; False where nothing runs. The same for the four below."""
        return self._ask("pause")

    def stop(self) -> bool:
        return self._ask("stop")

    def cancel(self) -> bool:
        return self._ask("cancel")

    def save_now(self) -> bool:
        return self._ask("save_now")

    def sample_now(self) -> bool:
        return self._ask("sample_now")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the job's end; True when nothing runs any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.alive
