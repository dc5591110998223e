"""The two sides of a running job: the user's side holds a Control, the worker its Token.

Cancelled is the one exception that ends the work early without being a failure.
"""

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

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled if the job was cancelled."""


class AnyOf:
    """A token that is cancelled if one of several is."""

    def __init__(self, *tokens: CancelToken) -> None:
        self._tokens = tokens

    def raise_if_cancelled(self) -> None:
        for token in self._tokens:
            token.raise_if_cancelled()


class Cancelled(Exception):
    """Raised in the worker by ``raise_if_cancelled``. The runner ends the job as cancelled."""


class BorrowRequest:
    """Work that a running job does between two of its steps, with its loaded models.

    The requesting side waits for the result and may cancel. The worker does the work or refuses it.

    Args:
        work: called as work(lender, request) in the worker's thread. ``lender`` is whatever the worker lends; it
            belongs to the worker again when ``work`` returns. ``request`` is the token to check for a cancel.
    """

    def __init__(self, work: Callable[[Any, BorrowRequest], Any]) -> None:
        self._work = work
        self._over = threading.Event()
        self._cancel = False
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def cancelled(self) -> bool:
        return self._cancel

    def cancel(self) -> None:
        """End the work at its next ``raise_if_cancelled``. Called by the requesting side."""
        self._cancel = True

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled after ``cancel``. Called by the work."""
        if self._cancel:
            raise Cancelled

    def do(self, lender: Any) -> None:
        """Do the work, on the worker's side. Its errors are raised by ``wait`` on the other side, never here."""
        try:
            self.raise_if_cancelled()
            self._result = self._work(lender, self)
        except (Exception, Cancelled) as error:
            self._error = error
        finally:
            self._over.set()

    def refuse(self, error: BaseException) -> None:
        """Refuse the work, on the worker's side. ``wait`` raises the error."""
        if not self.over:
            self._error = error
            self._over.set()

    def wait(self, seconds: float | None = None) -> Any:
        """Wait for the result of the work.

        Raises:
            Cancelled: it was cancelled. TimeoutError: it is not over yet. Otherwise what the work raised.
        """
        if not self._over.wait(seconds):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result


class Control:
    """The user's side: requests to the worker. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: StopKind | None = None
        self._cancel = False
        self._save = False
        self._preview = False
        self._stop_count = 0
        self._requested = threading.Event()
        self._borrow_requests: list[BorrowRequest] = []
        self._ended = False
        self.token = Token(self)

    def pause(self) -> None:
        """Finish the step, save, free the device, end."""
        with self._lock:
            self._stop = "pause"
            self._requested.set()

    def stop(self) -> None:
        """Do the same as ``pause``, but record the run as stopped."""
        with self._lock:
            self._stop = "stop"
            self._stop_count += 1
            self._requested.set()

    def cancel(self) -> None:
        """End as soon as possible. For work that keeps what it has finished anyway (preparing, extracting)."""
        with self._lock:
            self._cancel = True
            self._stop_count += 1
            self._requested.set()

    def save_now(self) -> None:
        """Write a checkpoint after this step."""
        with self._lock:
            self._save = True
            self._requested.set()

    def preview_now(self) -> None:
        """Draw preview images after this step."""
        with self._lock:
            self._preview = True

    def send(self, request: BorrowRequest) -> bool:
        """Have something done between two steps. Returns False if the job has ended and it cannot be done."""
        with self._lock:
            if not self._ended:
                self._borrow_requests.append(request)
            return not self._ended

    def end(self) -> list[BorrowRequest]:
        """Accept no more requests: the job is over. Returns those that were not done."""
        with self._lock:
            self._ended = True
            left, self._borrow_requests = self._borrow_requests, []
        return left


class Token:
    """The worker's side: what was requested."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @property
    def stop_requested(self) -> StopKind | None:
        """Whether a training should pause or stop. A cancel that was meant for its preparation counts as a stop."""
        return self._control._stop or ("stop" if self._control._cancel else None)

    @property
    def stop_outcome(self) -> Literal["paused", "stopped"]:
        """The outcome of a job that was asked to end."""
        return "stopped" if self.stop_requested == "stop" else "paused"

    @property
    def cancelled(self) -> bool:
        return self._control._cancel

    @property
    def stop_count(self) -> int:
        """How often Stop or Cancel was pressed, so that a waiting worker can tell a new press from an old one."""
        return self._control._stop_count

    def wait_for_request(self, seconds: float) -> bool:
        """Sleep until anything is requested, at most ``seconds``. Returns whether something was."""
        requested = self._control._requested.wait(seconds)
        if requested:  # else a request that comes right now would be lost
            self._control._requested.clear()
        return requested

    def raise_if_cancelled(self) -> None:
        """End work that has no step to finish (preparing, extracting, drawing): on a pause or stop, too."""
        if self._control._cancel or self._control._stop is not None:
            raise Cancelled

    def adopt_stop(self, kind: StopKind) -> None:
        """Take over a stop that another process of the same run was asked for."""
        with self._control._lock:
            self._control._stop = kind

    def take_save_request(self) -> bool:
        """True once for each Save now."""
        with self._control._lock:
            requested, self._control._save = self._control._save, False
        return requested

    def take_preview_request(self) -> bool:
        """True once for each Preview now."""
        with self._control._lock:
            requested, self._control._preview = self._control._preview, False
        return requested

    def take_borrow_requests(self) -> list[BorrowRequest]:
        """Take the requests to run before the next step, oldest first. Each is returned once."""
        with self._control._lock:
            requests, self._control._borrow_requests = self._control._borrow_requests, []
        return requests


def job_ended() -> UserError:
    """The error for a borrow request that was not done before the job ended."""
    return UserError(
        "The image was not drawn.",
        "The training whose models it would have used has ended.",
        "Try again with its last checkpoint, which is in the list.",
    )
