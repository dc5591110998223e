"""Something that a running job does for somebody else between two of its steps, in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from engine.errors import UserError
from engine.jobs.control import Cancelled


class Errand:
    """Both sides of it: whoever asked waits, may cancel, and gets the answer; the worker does it or refuses it.

    Args:
        work: called as work(lender, errand) in the worker's thread. ``lender`` is whatever the worker lends; it is the
            worker's again when ``work`` returns. ``errand`` is the token to look at for a cancel.
    """

    def __init__(self, work: Callable[[Any, Errand], Any]) -> None:
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


def ended() -> UserError:
    """Why an errand is refused when the job ends before it was done."""
    return UserError(
        "The picture was not drawn.",
        "The training that would have lent its models ended before.",
        "Try again: its last checkpoint is in the list.",
    )
