"""Seconds in which the machine was active: a laptop that slept for a night has not trained for a night."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

NOTICED_SECONDS = 1.0
"""Windows' count of active time is coarse; the fine clock is corrected only by more than this."""


def _unbiased() -> Callable[[], float] | None:
    """Windows' clock of active time in seconds. None elsewhere: there Python's own clock stops during sleep."""
    if sys.platform != "win32":
        return None
    import ctypes

    count = ctypes.c_ulonglong()

    def read() -> float:
        ctypes.windll.kernel32.QueryUnbiasedInterruptTime(ctypes.byref(count))
        return count.value / 1e7

    return read


class ActiveClock:
    """A monotonic clock that stops while the machine sleeps.

    Args:
        fine: a fine clock that may continue during sleep.
        coarse: a coarse clock that does not; None if ``fine`` does not either.
    """

    def __init__(self, fine: Callable[[], float], coarse: Callable[[], float] | None) -> None:
        self._fine, self._coarse = fine, coarse
        self._offset = fine() - coarse() if coarse else 0.0

    def __call__(self) -> float:
        now = self._fine()
        if self._coarse is None:
            return now
        slept = now - self._coarse() - self._offset
        return now - slept if slept > NOTICED_SECONDS else now


active_time = ActiveClock(time.perf_counter, _unbiased())
"""The clock for every duration that is measured or predicted."""
