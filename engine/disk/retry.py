"""Work that needs the disk waits in place while the disk cannot take it: nothing that is in memory is lost.

The run stands still, says why, and goes on by itself when there is room or the disk answers again. Pause ends it as
soon as it could be saved; Stop tries once more and ends it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.disk.space import DiskFull, free_bytes
from engine.errors import UserError
from engine.jobs.control import Token
from engine.jobs.events import Message, Waiting
from engine.jobs.runner import Emit
from engine.machine.errors import is_disk_full
from engine.machine.units import format_bytes

LOOK_SECONDS = 3.0
"""Between two looks at the free space; one look costs a system call."""
FIRST_RETRY, LAST_RETRY = 5.0, 60.0
"""Seconds between two tries of a write that failed for another reason than a known lack of room."""

T = TypeVar("T")


class Unsaved(UserError):
    """The owner ended a run whose newest state could not be written."""


class Patience:
    """Tries something until the disk takes it."""

    def __init__(self, folder: Path, token: Token, emit: Emit) -> None:
        self._folder, self._token, self._emit = folder, token, emit

    def until_done(self, what: str, action: Callable[[], T], at_stop: Callable[[UserError], T]) -> T:
        """``action()``, again and again while it raises DiskFull or OSError.

        Args:
            what: for people, for example "The checkpoint of step 500".
            at_stop: what to do when the owner does not want to wait; given the problem in words.
        """
        retry, stops, told = FIRST_RETRY, self._token.stops, False
        while True:
            try:
                done = action()
            except (DiskFull, OSError) as error:
                problem = error
            else:
                if told:
                    self._emit(Message(f"{what}: the disk answers again; going on."))
                return done
            sentence = describe(what, problem, self._folder)
            if self._token.stops > stops:
                return at_stop(Unsaved(f"{what} was not written.", describe_cause(problem, self._folder), TRY_THIS))
            if not told:
                self._emit(Message(sentence, "warning"))
                told = True
            self._emit(Waiting(sentence))
            if self._wait(problem, retry):
                retry = min(LAST_RETRY, retry * 2)

    def _wait(self, problem: Exception, retry: float) -> bool:
        """Until it is worth another try; True where that is only because time has passed."""
        waited = 0.0
        while True:
            if self._token.wait_for_word(LOOK_SECONDS):
                self._token.take_save_request()  # Save now means: try now
                return False
            waited += LOOK_SECONDS
            if isinstance(problem, DiskFull):
                if self._free() >= problem.needed:
                    return False
            elif waited >= retry:
                return True

    def _free(self) -> int:
        try:
            return free_bytes(self._folder)
        except OSError:
            return 0  # the disk is gone for the moment


TRY_THIS = "Free some space, or bring the disk back, and resume: the run goes on from its last checkpoint."


def describe(what: str, problem: Exception, folder: Path) -> str:
    """What stands in the window while the run waits."""
    cause = describe_cause(problem, folder)
    if isinstance(problem, DiskFull) or is_disk_full(problem):
        return f"{what} waits for room on the disk. {cause} Free some space: the run goes on by itself."
    return f"{what} waits for the disk. {cause} The run tries again by itself and keeps everything in memory."


def describe_cause(problem: Exception, folder: Path) -> str:
    """Why it was not written, in a sentence."""
    if isinstance(problem, DiskFull):
        return problem.why
    if is_disk_full(problem):
        try:
            return f"The disk of {folder.name} is full ({format_bytes(free_bytes(folder))} left)."
        except OSError:
            return "The disk is full."
    words = getattr(problem, "strerror", None) or str(problem)
    return f"The system says: {words}."
