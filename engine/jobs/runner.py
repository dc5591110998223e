"""Runs one job in a background thread and folds its events into the snapshot."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from engine.errors import UserError
from engine.jobs.control import Cancelled, Control, Token
from engine.jobs.errand import Errand, ended
from engine.jobs.events import Event, Message
from engine.jobs.snapshot import Failure, JobSnapshot, Outcome, fold

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
                failure=None, phase="preparing", updated=time.monotonic(),
            )  # fmt: skip
            self._control = control
            self._thread = threading.Thread(target=self._run, args=(work, control), name=f"job-{kind}", daemon=True)
            self._thread.start()

    def _run(self, work: Work, control: Control) -> None:
        outcome: Outcome = "failed"
        failure: Failure | None = None
        try:
            outcome = work(control.token, self._emit)
        except Cancelled:
            outcome = "cancelled"
        except UserError as error:
            failure = Failure(error.what, error.why, error.try_this, traceback.format_exc())
        except BaseException as error:  # the thread's last line of defence: whatever it is, people get to see it
            failure = describe_crash(error)
        finally:
            for errand in control.end():
                errand.refuse(ended())
            if failure is not None:
                self._emit(Message(f"{failure.what} {failure.why}", "error"))
            with self._lock:
                self._snapshot = replace(
                    self._snapshot, version=self._snapshot.version + 1, alive=False, asked="", outcome=outcome,
                    failure=failure, phase="", progress=None, updated=time.monotonic(),
                )  # fmt: skip

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._snapshot = fold(self._snapshot, event, time.monotonic())

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

    def send(self, errand: Errand) -> bool:
        """Have the running job do something between two of its steps; False where nothing runs.

        Whoever sends it knows that the job is one that runs errands: a training does.
        """
        with self._lock:
            control = self._control
        return control is not None and self.alive and control.send(errand)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the job's end; True when nothing runs any more."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.alive


def describe_crash(error: BaseException) -> Failure:
    """Words for an exception that nobody foresaw, and for the few that everybody meets."""
    details = "".join(traceback.format_exception(error))
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return Failure(
            "The work ended because memory ran out.",
            text.split("\n")[0][:300] or "The computer has no memory left.",
            "Choose a preset for a smaller card, or a smaller batch size, and resume.",
            details,
        )
    if isinstance(error, OSError) and error.errno == 28:
        return Failure(
            "The work ended because the disk is full.",
            f"{error.filename or 'A file'} could not be written.",
            "Free some space and resume; the last checkpoint is whole.",
            details,
        )
    return Failure(
        "The work ended with an error that this app did not foresee.",
        f"{type(error).__name__}: {text}"[:500],
        "Try again; a training resumes from its last checkpoint. If it happens again, copy the report and send it to "
        "the project.",
        details,
    )
