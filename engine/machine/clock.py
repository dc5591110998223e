"""Seconds in which the machine was awake: a laptop that slept for a night has not trained for a night."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

NOTICED_SECONDS = 1.0
"""Windows' count of waking time is coarse; the fine clock is corrected only by more than that."""


def _unbiased() -> Callable[[], float] | None:
    """Windows' clock of waking time in seconds; elsewhere None: there, Python's own clock stands still in sleep."""
    if sys.platform != "win32":
        return None
    import ctypes

    count = ctypes.c_ulonglong()

    def read() -> float:
        ctypes.windll.kernel32.QueryUnbiasedInterruptTime(ctypes.byref(count))
        return count.value / 1e7

    return read


class AwakeClock:
    """A monotonic clock that stands still while the machine sleeps.

    Args:
        running: a fine clock that may go on in sleep.
        waking: a coarse one that does not; None where ``running`` does not either.
    """

    def __init__(self, running: Callable[[], float], waking: Callable[[], float] | None) -> None:
        self._running, self._waking = running, waking
        self._apart = running() - waking() if waking else 0.0

    def __call__(self) -> float:
        now = self._running()
        if self._waking is None:
            return now
        slept = now - self._waking() - self._apart
        return now - slept if slept > NOTICED_SECONDS else now


awake = AwakeClock(time.perf_counter, _unbiased())
"""The clock of everything that is measured or foreseen."""
