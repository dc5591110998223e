"""The dataset check that runs by itself after images were read or control images were made.

It is no job: it gives way to every job, and goes on where it was when no job runs. So it keeps nobody from making maps
or from training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.errors import UserError
from engine.jobs.control import Cancelled, CancelToken, OnProgress

PAUSE_SECONDS = 0.5
"""Between two looks at whether a job is running."""


@dataclass(frozen=True)
class CheckState:
    """What the pages show of it."""

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
    """Checks one dataset at a time in a thread of its own. Thread-safe.

    Args:
        busy: whether a job is running, which it gives way to.
        ended: called after each check, so that the pages look again.
    """

    def __init__(self, busy: Callable[[], bool], check: Check, ended: Callable[[], None]) -> None:
        self._busy, self._check, self._ended = busy, check, ended
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.state = CheckState()

    def begin(self, dataset: str) -> None:
        """Check a dataset as soon as no job is running. An earlier check that has not ended is given up."""
        self.cancel()
        with self._lock:
            stop = self._stop = threading.Event()
            self.state = replace(self.state, dataset=dataset, done=0, total=0, failed="")
            self._thread = threading.Thread(target=self._run, args=(dataset, stop), name="dataset check", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Give up the check. What was measured is kept for the next one."""
        self._stop.set()
        with self._lock:
            self.state = replace(self.state, dataset="")

    def wait(self, seconds: float) -> bool:
        """Wait for its end. Returns whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, dataset: str, stop: threading.Event) -> None:
        token, failed = _GivesWay(stop, self._busy), ""
        while not stop.is_set():
            if self._busy():
                stop.wait(PAUSE_SECONDS)
                continue
            try:
                self._check(dataset, token, lambda done, total, _: self._progress(stop, done, total), _workers())
            except Cancelled:
                continue  # given up, or a job has begun: then once more after it
            except UserError as error:
                failed = f"{error.what} {error.why} {error.try_this}"
            except Exception as error:
                failed = f"The check has failed: {type(error).__name__}: {error}"
            with self._lock:
                if not stop.is_set():
                    self.state = replace(self.state, dataset="", ended=self.state.ended + 1, failed=failed)
            self._ended()
            return

    def _progress(self, stop: threading.Event, done: int, total: int) -> None:
        with self._lock:
            if not stop.is_set():
                self.state = replace(self.state, done=done, total=total)


class _GivesWay:
    """Raises Cancelled when the check is given up or a job runs."""

    def __init__(self, stop: threading.Event, busy: Callable[[], bool]) -> None:
        self._stop, self._busy = stop, busy

    def raise_if_cancelled(self) -> None:
        if self._stop.is_set() or self._busy():
            raise Cancelled


def _workers() -> int:
    """Threads: half of the cores, so that the page still answers."""
    return max(1, (os.cpu_count() or 2) // 2)
