"""Runs one job in a background thread and folds its events into the snapshot."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from engine.errors import UserError
from engine.jobs.control import BorrowRequest, Cancelled, Control, Token, ended
from engine.jobs.events import Event, Message
from engine.jobs.faults import describe_crash
from engine.jobs.snapshot import LOG_LINES, Failure, JobSnapshot, Outcome, fold
from engine.machine.clock import awake

Emit = Callable[[Event], None]
Work = Callable[[Token, Emit], Outcome]
Around = Callable[[str, Emit], AbstractContextManager[None]]
"""What is held while a job of a kind runs, in its thread."""


def nothing_around(kind: str, emit: Emit) -> AbstractContextManager[None]:
    return nullcontext()


class Busy(UserError):
    """A second job was asked for while one is running."""


class JobRunner:
    """One job at a time: the graphics card has one owner.

    Args:
        around: what is held meanwhile, such as the computer's sleep.
    """

    def __init__(self, around: Around = nothing_around) -> None:
        self._around = around
        self._lock = threading.Lock()
        self._snapshot = JobSnapshot()
        self._control: Control | None = None
        self._thread: threading.Thread | None = None

    @property
    def snapshot(self) -> JobSnapshot:
        return self._snapshot

    @property
    def alive(self) -> bool:
        """From the live thread itself, never from a stored flag."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self, kind: str, title: str, work: Work, initial: JobSnapshot | None = None) -> None:
        """Start ``work(token, emit)`` in a thread of its own.

        Args:
            initial: what the pages show before the first event (curves of a resumed run); default: empty.

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
            control = Control()
            first = initial or JobSnapshot()
            self._snapshot = replace(
                first, version=self._snapshot.version + 1, kind=kind, title=title, alive=True, asked="", outcome=None,
                failure=None, phase="preparing", updated=awake(),
            )  # fmt: skip
            self._control = control
            self._thread = threading.Thread(
                target=self._run, args=(kind, work, control), name=f"job-{kind}", daemon=True
            )
            self._thread.start()

    def _run(self, kind: str, work: Work, control: Control) -> None:
        outcome: Outcome = "failed"
        failure: Failure | None = None
        try:
            with self._around(kind, self._emit):
                outcome = work(control.token, self._emit)
        except Cancelled:
            outcome = "cancelled"
        except UserError as error:
            failure = Failure(error.what, error.why, error.try_this, traceback.format_exc())
        except BaseException as error:  # the thread's last line of defence: whatever it is, people get to see it
            failure = describe_crash(error)
        finally:
            for request in control.end():
                request.refuse(ended())
            if failure is not None:
                self._emit(Message(f"{failure.what} {failure.why}", "error"))
            with self._lock:
                self._snapshot = replace(
                    self._snapshot, version=self._snapshot.version + 1, alive=False, asked="", outcome=outcome,
                    failure=failure, phase="", progress=None, updated=awake(),
                )  # fmt: skip

    def _emit(self, event: Event) -> None:
        """What cannot be shown is told in the log, and never ends the work that it tells of."""
        with self._lock:
            try:
                self._snapshot = fold(self._snapshot, event, awake())
            except Exception as error:
                words = f"warning: {type(event).__name__} could not be shown: {type(error).__name__}: {error}"
                log = self._snapshot.log
                self._snapshot = replace(
                    self._snapshot, version=self._snapshot.version + 1, log=(*log, words)[-LOG_LINES:]
                )

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

    def send(self, request: BorrowRequest) -> bool:
        """Have the running job do something between two of its steps; False where nothing runs.

        Whoever sends it knows that the job is one that runs requests: a training does.
        """
        with self._lock:
            control = self._control
        return control is not None and self.alive and control.send(request)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the job's end; True when nothing runs any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.alive
