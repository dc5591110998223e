"""Retrying what the disk refuses. The run pauses meanwhile, so that nothing in memory is lost.

The page shows why, and the run continues by itself when there is space or the disk answers again. Pause ends the run as
soon as it could be saved; Stop tries once more and ends it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.disk.in_use import is_in_use
from engine.disk.space import DiskFull, free_bytes
from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.events import Message, Waiting
from engine.jobs.runner import Emit
from engine.machine.errors import is_disk_full
from engine.machine.units import format_bytes

LOOK_SECONDS = 3.0
"""Between two checks of the free space; a check costs one system call."""
FIRST_RETRY, LAST_RETRY = 5.0, 60.0
"""Seconds between two attempts if it is not known how much space is missing. They double from the first to the last."""
ADVICE = "Free some space, or reconnect the disk, and resume: the run continues from its last checkpoint."

T = TypeVar("T")


class Unsaved(UserError):
    """The user ended a run whose newest state could not be written."""


class DiskRetry:
    """Repeats an action until the disk takes it."""

    def __init__(self, folder: Path, token: Token, emit: Emit) -> None:
        self._folder, self._token, self._emit = folder, token, emit

    def until_done(self, what: str, action: Callable[[], T], at_stop: Callable[[UserError], T]) -> T:
        """Return ``action()``, repeated as long as it raises DiskFull or OSError.

        Args:
            what: the beginning of a message, for example "The checkpoint of step 500".
            at_stop: called with the problem if the user does not want to wait; its result is returned.
        """
        retry, presses, reported = FIRST_RETRY, self._token.stop_count, False
        while True:
            try:
                done = action()
            except (DiskFull, OSError) as error:
                problem = error
            else:
                if reported:
                    self._emit(Message(f"{what}: the disk responds again; continuing."))
                return done
            sentence = waiting_message(what, problem, self._folder)
            if self._token.stop_count > presses:
                return at_stop(Unsaved(f"{what} was not written.", reason_of(problem, self._folder), ADVICE))
            if not reported:
                self._emit(Message(sentence, "warning"))
                reported = True
            self._emit(Waiting(sentence))
            if self._wait(problem, retry):
                retry = min(LAST_RETRY, retry * 2)

    def _wait(self, problem: Exception, retry: float) -> bool:
        """Sleep until another attempt makes sense. True: only because ``retry`` seconds have passed."""
        waited = 0.0
        while True:
            if self._token.wait_for_request(LOOK_SECONDS):
                self._token.take_save_request()  # Save now means: try now
                return False
            waited += LOOK_SECONDS
            if isinstance(problem, DiskFull):
                if self._free_bytes() >= problem.needed:
                    return False
            elif waited >= retry:
                return True

    def _free_bytes(self) -> int:
        try:
            return free_bytes(self._folder)
        except OSError:
            return 0  # the disk is gone for the moment


def waiting_message(what: str, problem: Exception, folder: Path) -> str:
    """The text that the page shows while the run waits."""
    reason = reason_of(problem, folder)
    if isinstance(problem, DiskFull) or is_disk_full(problem):
        return f"{what} is waiting for disk space. {reason} Free some space: the run then continues by itself."
    return f"{what} is waiting for the disk. {reason} The run keeps everything in memory and tries again by itself."


def reason_of(problem: Exception, folder: Path) -> str:
    """A sentence that says why something was not written."""
    if isinstance(problem, DiskFull):
        return problem.why
    if is_disk_full(problem):
        try:
            return f"The disk of {folder.name} is full ({format_bytes(free_bytes(folder))} left)."
        except OSError:
            return "The disk is full."
    if is_in_use(problem):
        return "Another program has one of its files open: a virus scanner, a backup or a viewer."
    named = Path(problem.filename) if isinstance(problem, FileNotFoundError) and problem.filename else folder
    if missing := _missing_folder(folder) or _missing_folder(named.parent):
        return _gone(missing)
    return f"The system says: {getattr(problem, 'strerror', None) or problem}."


def _missing_folder(folder: Path) -> Path | None:
    """The first folder on the way to this one that is not there. None: it is there."""
    return next((one for one in (*reversed(folder.parents), folder) if not one.exists()), None)


def _gone(folder: Path) -> str:
    """Describe a folder that has disappeared, and the likely cause."""
    return (
        f"The folder {folder.name} is no longer in {folder.parent}: it was renamed, moved or deleted, or its "
        "disk was disconnected. Rename it or move it back."
    )
