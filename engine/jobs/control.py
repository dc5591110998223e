"""The owner holds a Control, the worker its read-only Token. One exception, Cancelled, ends the work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, Protocol

from engine.errors import UserError

StopKind = Literal["pause", "stop"]
OnProgress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, label)``."""


class CancelToken(Protocol):
    """The part of a job's token that long loops need."""

    def raise_if_cancelled(self) -> None: ...


class Cancelled(Exception):
    """Raised in the worker by Token.raise_if_cancelled; the runner ends the job quietly."""


class BorrowRequest:
    """Both sides of it: whoever asked waits, may cancel, and gets the answer; the worker does it or refuses it.

    Args:
        work: called as work(lender, request) in the worker's thread. ``lender`` is whatever the worker lends; it is the
            worker's again when ``work`` returns. ``request`` is the token to look at for a cancel.
    """

    def __init__(self, work: Callable[[Any, BorrowRequest], Any]) -> None:
        self._work = work
        self._over = threading.Event()
        self._cancel = False
        self._answer: Any = None
        self._error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def cancelled(self) -> bool:
        return self._cancel

    def cancel(self) -> None:
        self._cancel = True

    def raise_if_cancelled(self) -> None:
        if self._cancel:
            raise Cancelled

    def do(self, lender: Any) -> None:
        """For the worker. Never raises an error of the work: that is the asker's affair."""
        try:
            self.raise_if_cancelled()
            self._answer = self._work(lender, self)
        except (Exception, Cancelled) as error:
            self._error = error
        finally:
            self._over.set()

    def refuse(self, error: BaseException) -> None:
        """For the worker: it will not be done, and why."""
        if not self.over:
            self._error = error
            self._over.set()

    def wait(self, seconds: float | None = None) -> Any:
        """The answer of the work.

        Raises:
            Cancelled: it was cancelled. TimeoutError: it is not over yet. Otherwise what the work raised.
        """
        if not self._over.wait(seconds):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._answer


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
        self._borrow_requests: list[BorrowRequest] = []
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

    def send(self, request: BorrowRequest) -> bool:
        """Have something done between two steps; False where the work has ended and nobody will do it."""
        with self._lock:
            if not self._ended:
                self._borrow_requests.append(request)
            return not self._ended

    def end(self) -> list[BorrowRequest]:
        """The work is over: nothing is taken any more. Returns what was not done."""
        with self._lock:
            self._ended = True
            left, self._borrow_requests = self._borrow_requests, []
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

    def take_borrow_requests(self) -> list[BorrowRequest]:
        """What others want done before the next step, each once, oldest first."""
        with self._control._lock:
            requests, self._control._borrow_requests = self._control._borrow_requests, []
        return requests

    def take_preview_request(self) -> bool:
        """True once for each Preview now."""
        with self._control._lock:
            asked, self._control._preview = self._control._preview, False
        return asked


def ended() -> UserError:
    """Why a request is refused when the job ends before it was done."""
    return UserError(
        "The image was not drawn.",
        "The training that would have lent its models ended before.",
        "Try again: its last checkpoint is in the list.",
    )
