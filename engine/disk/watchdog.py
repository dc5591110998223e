"""Reports reads and writes that take long. The thread that waits for the disk cannot, so another thread watches it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.jobs.events import Message
from engine.jobs.runner import Emit
from engine.machine.clock import active_time
from engine.machine.units import format_duration

SLOW_SECONDS = 30.0
"""Writing a checkpoint of SD 1.5 takes an SSD about 5 s and a slow disk 30 s."""
LOOK_SECONDS = 1.0
WINDOW_SECONDS = 600.0
"""The durations of small reads and writes are added up over this time."""
ADVICE = "Check that it is connected, and what else is using it."
WAITS, GOES_ON = "Training waits for it.", "Training continues in the meantime."


@dataclass
class _Watched:
    what: str
    began: float
    due: float
    waits: bool = True


class DiskWatchdog:
    """Watches what threads do with the disk, until ``close`` is called.

    Args:
        emit: receives the warnings. It must not write to that disk before it has passed them on.
        slow_after: seconds after which one operation, or small ones together in ten minutes, count as slow.
    """

    def __init__(self, emit: Emit, slow_after: float = SLOW_SECONDS) -> None:
        self._emit, self._slow_after = emit, slow_after
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._window_start, self._spent, self._limit = active_time(), 0.0, slow_after
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def under_way(self) -> list[str]:
        """The operations that are being watched now."""
        with self._lock:
            return [watched.what for watched in self._watched]

    @contextmanager
    def watch(self, what: str, small: bool = False, waits: bool = True) -> Iterator[None]:
        """Watch the block.

        Args:
            what: the operation, for messages: "Writing the checkpoint of step 500".
            small: the operation is frequent and should take no time at all, so that durations are added up.
            waits: training stands still meanwhile.
        """
        began = active_time()
        watched = _Watched(what, began, began + self._slow_after, waits)
        with self._lock:
            self._watched.append(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="disk-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.remove(watched)
            if small:
                self.add_small(what, began, active_time())

    def check(self, now: float) -> bool:
        """Report operations that have become slow. Returns whether anything was reported.

        Args:
            now: in seconds of ``active_time``.
        """
        messages = []
        with self._lock:
            for watched in self._watched:
                lasted = now - watched.began
                if now >= watched.due:
                    watched.due = now + lasted  # report again once it has taken twice as long
                    so_far = f"{watched.what} has taken {format_duration(lasted)} so far"
                    slow = f"{so_far}: the disk is slow or does not respond."
                    messages.append(f"{slow} {WAITS if watched.waits else GOES_ON} {ADVICE}")
        for message in messages:
            self._emit(Message(message, "warning"))
        return bool(messages)

    def add_small(self, what: str, began: float, ended: float) -> bool:
        """Add the duration of a small operation, and report if they took long together. Returns whether it did."""
        with self._lock:
            if ended - self._window_start > WINDOW_SECONDS:
                self._window_start, self._spent = began, 0.0
            self._spent += ended - began
            spent, within = self._spent, ended - self._window_start
            if spent < self._limit:
                return False
            self._limit *= 2  # report less and less often
            self._window_start, self._spent = ended, 0.0
        message = f"{what} took {format_duration(spent)} of the last {format_duration(within)}: the disk is slow."
        self._emit(Message(f"{message} {WAITS} {ADVICE}", "warning"))
        return True

    def _run(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            self.check(active_time())

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
