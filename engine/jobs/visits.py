"""Work that a job in progress does for its owner between two of its steps, with what it holds in memory.

A training lends its models that way: a picture or a grid is drawn by the training's own thread, nothing is loaded
twice, and the training waits meanwhile. A visit has its own control, progress and end; none of them is the job's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.jobs.control import Control, Token
from engine.jobs.ending import attempt
from engine.jobs.events import Event, Message
from engine.jobs.snapshot import Failure, JobSnapshot, Outcome, fold

VisitWork = Callable[[Any, Token, Callable[[Event], None]], Outcome]
"""work(host, token, emit): ``host`` is what the job lends, see engine/training/lending.py."""


class Visit:
    """One piece of such work. The owner asks and cancels, the job's thread serves; both read the snapshot."""

    def __init__(self, kind: str, title: str, work: VisitWork) -> None:
        self._lock = threading.Lock()
        self._work = work
        self._control = Control()
        self._taken = False
        self._snapshot = JobSnapshot(version=1, kind=kind, title=title, alive=True, phase="waiting")

    @property
    def snapshot(self) -> JobSnapshot:
        """As of a job; its phase is "waiting" until the job comes to it."""
        return self._snapshot

    @property
    def alive(self) -> bool:
        return self._snapshot.alive

    def cancel(self) -> None:
        """End it, whether it is drawing or still waiting."""
        with self._lock:
            if not self._snapshot.alive:
                return
            self._control.cancel()
            if self._taken:
                self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, asked="cancel")
                return
            self._taken = True
        self._end("cancelled", None)

    def serve(self, host: Any, token: Token) -> None:
        """Do the work, in the job's thread. Its faults stay its own; a pause or stop of the job cancels it.

        Args:
            token: the job's.
        """
        with self._lock:
            if self._taken:
                return
            self._taken = True
        self._control.follow(token)
        self._emit_phase()
        outcome, failure = attempt(lambda: self._work(host, self._control.token, self._emit))
        self._end(outcome, failure)

    def turn_away(self, why: str) -> None:
        """The job has ended before it came to this; a visit that it did serve stays as it is."""
        with self._lock:
            if self._taken:
                return
            self._taken = True
        title = self._snapshot.title
        self._end("failed", Failure(f"{title} was not done.", why, "Start it again: nothing is in its way now."))

    def _emit_phase(self) -> None:
        with self._lock:
            self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, phase="running")

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._snapshot = fold(self._snapshot, event, time.monotonic())

    def _end(self, outcome: Outcome, failure: Failure | None) -> None:
        if failure is not None:
            self._emit(Message(f"{failure.what} {failure.why}", "error"))
        with self._lock:
            self._snapshot = replace(
                self._snapshot, version=self._snapshot.version + 1, alive=False, asked="", outcome=outcome,
                failure=failure, phase="", progress=None, updated=time.monotonic(),
            )  # fmt: skip
