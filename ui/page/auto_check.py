"""The dataset check that runs by itself after images were read or control images were made.

It is not a job: it pauses while any job runs, and then continues where it stopped. So it never keeps anyone from making
maps or training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.errors import UserError
from engine.jobs.control import Cancelled, CancelToken, OnProgress

PAUSE_SECONDS = 0.5
"""Time between two checks for a running job."""


@dataclass(frozen=True)
class CheckState:
    """How far the check is, as the pages show it."""

    dataset: str = ""
    """The dataset that is being checked or waits for it; empty: none."""
    done: int = 0
    total: int = 0
    ended: int = 0
    """Grows with each check that has ended."""
    failed: str = ""
    """Why the last one failed, in sentences."""

    @property
    def alive(self) -> bool:
        """A dataset is being checked, or waits for a job to end."""
        return bool(self.dataset)


Check = Callable[[str, CancelToken, OnProgress, int], None]
"""Called as check(dataset, token, progress, workers); raises UserError, or Cancelled by the token."""


class AutoCheck:
    """Checks datasets one after the other in a thread of its own, the newest first. Thread-safe.

    Args:
        busy: returns whether a job is running, for which it pauses.
        ended: called after each check, so that the pages are updated.
    """

    def __init__(self, busy: Callable[[], bool], check: Check, ended: Callable[[], None]) -> None:
        self._busy, self._check, self._ended = busy, check, ended
        self._lock = threading.Lock()
        self._waiting: tuple[str, ...] = ()
        self._round = threading.Event()
        """Set when what is being checked is no longer what should be."""
        self._thread: threading.Thread | None = None
        self.state = CheckState()

    def begin(self, dataset: str) -> None:
        """Check a dataset from the start as soon as no job is running; other checks continue afterwards."""
        with self._lock:
            self._next((dataset, *(name for name in self._waiting if name != dataset)))
            self.state = replace(self.state, failed="")
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="dataset check", daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Cancel all checks. Measurements so far are kept for the next check."""
        with self._lock:
            self._next(())

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to check. Returns False on a timeout."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _next(self, waiting: tuple[str, ...]) -> None:
        """Change what is checked. Call it with the lock held."""
        self._round.set()
        self._round = threading.Event()
        self._waiting = waiting
        self.state = replace(self.state, dataset=waiting[0] if waiting else "", done=0, total=0)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                name, over = self._waiting[0], self._round
            if self._busy():
                over.wait(PAUSE_SECONDS)
                continue
            try:
                failed = self._failure_of(name, over)
            except Cancelled:
                continue  # cancelled, overtaken by another dataset, or a job has begun: it is checked again after that
            with self._lock:
                if not over.is_set():
                    done = self.state
                    self._next(self._waiting[1:])
                    self.state = replace(self.state, ended=done.ended + 1, failed=failed)
            self._ended()

    def _failure_of(self, name: str, over: threading.Event) -> str:
        """Check one dataset. Returns why that failed, or an empty string. Raises Cancelled."""

        def progress(done: int, total: int, _: str) -> None:
            with self._lock:
                if not over.is_set():
                    self.state = replace(self.state, done=done, total=total)

        try:
            self._check(name, _GivesWay(over, self._busy), progress, _workers())
        except Cancelled:
            raise
        except UserError as error:
            return f"{error.what} {error.why} {error.try_this}"
        except Exception as error:
            return f"The check has failed: {type(error).__name__}: {error}"
        return ""


class _GivesWay:
    """Raises Cancelled when the check is over or a job runs."""

    def __init__(self, over: threading.Event, busy: Callable[[], bool]) -> None:
        self._over, self._busy = over, busy

    def raise_if_cancelled(self) -> None:
        if self._over.is_set() or self._busy():
            raise Cancelled


def _workers() -> int:
    """Threads: half of the cores, so that the page still answers."""
    return max(1, (os.cpu_count() or 2) // 2)
