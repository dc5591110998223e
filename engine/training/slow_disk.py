"""A write that takes long is told: the thread that writes cannot, so another one watches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.jobs.events import Message
from engine.jobs.runner import Emit

PATIENCE_SECONDS = 30.0
"""A checkpoint of SD 1.5 takes an SSD about 5 s and a slow disk 30."""
LOOK_SECONDS = 1.0


class SlowDisk:
    """Watches one thread's writes. ``close`` ends the watching."""

    def __init__(self, emit: Emit, patience: float = PATIENCE_SECONDS) -> None:
        self._emit, self._patience = emit, patience
        self._lock = threading.Lock()
        self._what, self._began, self._due = "", 0.0, 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """While the block runs, ``what`` (for people, as "Writing the checkpoint of step 500") is under watch."""
        with self._lock:
            self._what, self._began = what, time.monotonic()
            self._due = self._began + self._patience
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="slow-disk", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._what = ""

    def look(self, now: float) -> bool:
        """Tell where it is time to; whether something was told. ``now``: seconds of the monotonic clock."""
        with self._lock:
            what, lasted = self._what, now - self._began
            if not what or now < self._due:
                return False
            self._due = now + lasted  # the next time when it has taken twice as long
        self._emit(
            Message(
                f"{what} has taken {lasted:.0f} s so far: the disk is slow or does not answer. Training waits for it. "
                "Look whether it is connected, and what else is writing to it.",
                "warning",
            )
        )
        return True

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look(time.monotonic())

    def close(self) -> None:
        self._ended.set()
