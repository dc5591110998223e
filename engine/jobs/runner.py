"""Runs one job at a time in a background thread, and folds its events into the snapshot."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from engine.errors import UserError
from engine.jobs.control import BorrowRequest, Cancelled, Control, OnProgress, Token, job_ended
from engine.jobs.events import Event, Message, Progress
from engine.jobs.faults import describe_crash
from engine.jobs.snapshot import LOG_LINES, Failure, JobSnapshot, Outcome, fold
from engine.machine.clock import active_time

Emit = Callable[[Event], None]
Work = Callable[[Token, Emit], Outcome]
JobContext = Callable[[str, Emit], AbstractContextManager[None]]
"""Called as context(kind, emit); the job runs inside what it returns, in its own thread."""


def no_context(kind: str, emit: Emit) -> AbstractContextManager[None]:
    """The JobContext of a runner that needs none."""
    return nullcontext()


def progress_events(emit: Emit, label: str = "", own: tuple[str, ...] = ()) -> OnProgress:
    """A progress callback that emits events.

    Args:
        label: replaces the labels of the work. A label that stays the same lets the page estimate the time left.
        own: labels of the work that are kept all the same.
    """

    def report(done: int, total: int, of_work: str) -> None:
        emit(Progress(done, total, of_work if not label or of_work in own else label))

    return report


class Busy(UserError):
    """A second job was started while one is running."""


class JobRunner:
    """Runs one job at a time, because the graphics card has one owner.

    Args:
        context: entered for the time of a job, for example to keep the computer awake.
    """

    def __init__(self, context: JobContext = no_context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._snapshot = JobSnapshot()
        self._control: Control | None = None
        self._thread: threading.Thread | None = None

    @property
    def snapshot(self) -> JobSnapshot:
        return self._snapshot

    @property
    def alive(self) -> bool:
        """Whether a job is running: asked of the thread itself, never a stored flag."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self, kind: str, title: str, work: Work, initial: JobSnapshot | None = None) -> None:
        """Start ``work(token, emit)`` in a new thread.

        Args:
            initial: what the pages show before the first event, such as the curves of a resumed run.

        Raises:
            Busy: another job is running.
        """
        with self._lock:
            if self.alive:
                raise Busy(
                    f"{title} was not started.",
                    f"{self._snapshot.title} is still running, and only one job can run at a time.",
                    "Wait for it, or pause or cancel it first.",
                )
            control = Control()
            first = initial or JobSnapshot()
            self._snapshot = replace(
                first,
                version=self._snapshot.version + 1,
                kind=kind,
                title=title,
                alive=True,
                asked="",
                outcome=None,
                failure=None,
                phase="preparing",
                updated=active_time(),
            )
            self._control = control
            self._thread = threading.Thread(
                target=self._run, args=(kind, work, control), name=f"job-{kind}", daemon=True
            )
            self._thread.start()

    def _run(self, kind: str, work: Work, control: Control) -> None:
        outcome: Outcome = "failed"
        failure: Failure | None = None
        try:
            with self._context(kind, self._emit):
                outcome = work(control.token, self._emit)
        except Cancelled:
            outcome = "cancelled"
        except UserError as error:
            failure = Failure(error.what, error.why, error.try_this, traceback.format_exc(), error.offers)
        except BaseException as error:  # whatever it is, the page shows it
            failure = describe_crash(error)
        finally:
            for request in control.end():
                request.refuse(job_ended())
            if failure is not None:
                self._emit(Message(f"{failure.what} {failure.why}", "error"))
            with self._lock:
                self._snapshot = replace(
                    self._snapshot,
                    version=self._snapshot.version + 1,
                    alive=False,
                    asked="",
                    outcome=outcome,
                    failure=failure,
                    phase="",
                    progress=None,
                    updated=active_time(),
                )

    def _emit(self, event: Event) -> None:
        """Fold an event into the snapshot. An event that cannot be shown is logged; it must not end the job."""
        with self._lock:
            try:
                self._snapshot = fold(self._snapshot, event, active_time())
            except Exception as error:
                message = f"warning: {type(event).__name__} could not be shown: {type(error).__name__}: {error}"
                log = self._snapshot.log
                self._snapshot = replace(
                    self._snapshot, version=self._snapshot.version + 1, log=(*log, message)[-LOG_LINES:]
                )

    def _request(self, what: str) -> bool:
        with self._lock:
            control = self._control
            if not self.alive or control is None:
                return False
            getattr(control, what)()
            if what in ("pause", "stop", "cancel"):
                self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, asked=what)  # type: ignore[arg-type]
            return True

    def pause(self) -> bool:
        """Request a pause. Returns False if nothing is running; so do the methods below."""
        return self._request("pause")

    def stop(self) -> bool:
        """Request the same as ``pause``, recorded as stopped."""
        return self._request("stop")

    def cancel(self) -> bool:
        """Request an end as soon as possible."""
        return self._request("cancel")

    def save_now(self) -> bool:
        """Request a checkpoint after the current step."""
        return self._request("save_now")

    def preview_now(self) -> bool:
        """Request preview images after the current step."""
        return self._request("preview_now")

    def send(self, request: BorrowRequest) -> bool:
        """Have the running job do something between two of its steps. Returns False if nothing is running.

        The caller has to know that the job handles borrow requests; a training run does.
        """
        with self._lock:
            control = self._control
        return control is not None and self.alive and control.send(request)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the job's end. Returns True if no job is left running."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.alive
