"""Reading or writing that takes long is told: the thread that waits for the disk cannot, so another one watches it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.jobs.events import Message
from engine.jobs.runner import Emit
from engine.machine.clock import awake

PATIENCE_SECONDS = 30.0
"""A checkpoint of SD 1.5 takes an SSD about 5 s and a slow disk 30."""
LOOK_SECONDS = 1.0
WINDOW_SECONDS = 600.0
"""Small writes are added up for so long."""
ADVICE = "Look whether it is connected, and what else is using it."
WAITS, GOES_ON = "Training waits for it.", "Training goes on meanwhile."


@dataclass
class _Watch:
    what: str
    began: float
    due: float
    waits: bool = True


class SlowDisk:
    """Watches what threads do with the disk. ``close`` ends the watching.

    Args:
        emit: where it is told; never something that itself writes to that disk before it tells.
        patience: seconds that one thing may take, or small ones together in ten minutes.
    """

    def __init__(self, emit: Emit, patience: float = PATIENCE_SECONDS) -> None:
        self._emit, self._patience = emit, patience
        self._lock = threading.Lock()
        self._watched: list[_Watch] = []
        self._since, self._spent, self._enough = awake(), 0.0, patience
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, what: str, small: bool = False, waits: bool = True) -> Iterator[None]:
        """While the block runs, ``what`` (for people, as "Writing the checkpoint of step 500") is under watch.

        ``small``: it is done often and ought to take no time at all, so that what it takes is added up. ``waits``:
        training stands still meanwhile.
        """
        began = awake()
        watch = _Watch(what, began, began + self._patience, waits)
        with self._lock:
            self._watched.append(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="slow-disk", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.remove(watch)
            if small:
                self.add_up(what, began, awake())

    def look(self, now: float) -> bool:
        """Tell where it is time to; whether something was told. ``now``: seconds in which the machine was awake."""
        told = []
        with self._lock:
            for watch in self._watched:
                lasted = now - watch.began
                if now >= watch.due:
                    watch.due = now + lasted  # the next time when it has taken twice as long
                    words = f"{watch.what} has taken {lasted:.0f} s so far: the disk is slow or does not answer."
                    told.append(f"{words} {WAITS if watch.waits else GOES_ON} {ADVICE}")
        for words in told:
            self._emit(Message(words, "warning"))
        return bool(told)

    def add_up(self, what: str, began: float, ended: float) -> bool:
        """One more small thing was done; tell where they have taken long together. Whether it was told."""
        with self._lock:
            if ended - self._since > WINDOW_SECONDS:
                self._since, self._spent = began, 0.0
            self._spent += ended - began
            spent, within = self._spent, ended - self._since
            if spent < self._enough:
                return False
            self._enough *= 2  # more and more seldom
            self._since, self._spent = ended, 0.0
        words = f"{what} took {spent:.0f} s of the last {within:.0f} s: the disk is slow."
        self._emit(Message(f"{words} {WAITS} {ADVICE}", "warning"))
        return True

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look(awake())

    def close(self) -> None:
        self._ended.set()
