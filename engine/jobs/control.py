"""The owner holds a Control, the worker its read-only Token. One exception, Cancelled, ends the work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.jobs.errand import Errand

StopKind = Literal["pause", "stop"]


class Cancelled(Exception):
    """Raised in the worker by Token.raise_if_cancelled; the runner ends the job quietly."""


class Control:
    """The owner's side: ask the worker for something. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: StopKind | None = None
        self._cancel = False
        self._save = False
        self._preview = False
        self._stops = 0
        self._word = threading.Event()
        self._errands: list[Errand] = []
        self._ended = False
        self.token = Token(self)

    def pause(self) -> None:
        """Finish the step, save, free the device, end."""
        with self._lock:
            self._stop = "pause"
            self._word.set()

    def stop(self) -> None:
        """As pause, but the run counts as ended by its owner."""
        with self._lock:
            self._stop = "stop"
            self._stops += 1
            self._word.set()

    def cancel(self) -> None:
        """End as soon as possible; for work that keeps what it has finished anyway (preparing, extracting)."""
        with self._lock:
            self._cancel = True
            self._stops += 1
            self._word.set()

    def save_now(self) -> None:
        with self._lock:
            self._save = True
            self._word.set()

    def sample_now(self) -> None:
        with self._lock:
            self._preview = True

    def send(self, errand: Errand) -> bool:
        """Have something done between two steps; False where the work has ended and nobody will do it."""
        with self._lock:
            if not self._ended:
                self._errands.append(errand)
            return not self._ended

    def end(self) -> list[Errand]:
        """The work is over: nothing is taken any more. Returns what was not done."""
        with self._lock:
            self._ended = True
            left, self._errands = self._errands, []
        return left


class Token:
    """The worker's side: look at what was asked for."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @property
    def stop(self) -> StopKind | None:
        """What training was asked for; a Cancel that was meant for the preparing before it counts as a stop."""
        return self._control._stop or ("stop" if self._control._cancel else None)

    @property
    def stop_outcome(self) -> Literal["paused", "stopped"]:
        """How a job that was asked to end describes its end."""
        return "stopped" if self.stop == "stop" else "paused"

    @property
    def cancelled(self) -> bool:
        return self._control._cancel

    @property
    def stops(self) -> int:
        """How often Stop or Cancel was pressed: a worker that waits for something can tell a new press from an old."""
        return self._control._stops

    def wait_for_word(self, seconds: float) -> bool:
        """Sleep until the owner says something (whatever it is), at most so long; whether something was said."""
        said = self._control._word.wait(seconds)
        if said:  # else a word that comes right now would be lost
            self._control._word.clear()
        return said

    def raise_if_cancelled(self) -> None:
        """For work that has no step to finish (preparing, extracting, drawing): a pause or stop ends it, too."""
        if self._control._cancel or self._control._stop is not None:
            raise Cancelled

    def follow(self, what: StopKind) -> None:
        """Do as another process of the same work was asked to."""
        with self._control._lock:
            self._control._stop = what

    def take_save_request(self) -> bool:
        """True once for each Save now."""
        with self._control._lock:
            asked, self._control._save = self._control._save, False
        return asked

    def take_errands(self) -> list[Errand]:
        """What others want done before the next step, each once, oldest first."""
        with self._control._lock:
            errands, self._control._errands = self._control._errands, []
        return errands

    def take_preview_request(self) -> bool:
        """True once for each Sample now."""
        with self._control._lock:
            asked, self._control._preview = self._control._preview, False
        return asked
