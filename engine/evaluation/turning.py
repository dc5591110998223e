"""Has a net that listens stopped improving, or is it getting worse? Rules of the verdict (docs/verdict.md), pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from engine.jobs.events import Checked

FLAT_SHARE = 0.02
"""A window that brings less than this share of what was reached so far brings nothing."""
WINDOW_SHARE, LEAST_WINDOW = 0.25, 4
"""A window: this share of the checks since the net listens, and at least so many."""
RISE = 0.02
"""Relative rise of the held-out loss above its lowest that counts,"""
RISE_NOISE = 2.0
"""where it is also this many times as large as the usual change from one check to the next."""

BROKEN = 2.0
"""Times the loss of the untrained net, on held-out and on training pairs, from which weights are taken to be broken."""
WORSE, WORSE_CHECKS = 1.1, 3
"""Times the loss of the untrained net, on both, from which a net is worse than none; in so many checks in a row."""


def smooth(values: Sequence[float], half: int = 1) -> list[float]:
    """Medians over each value and ``half`` on either side: single bad checks do not count."""
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def noise(values: Sequence[float]) -> float:
    """The usual change from one check to the next: median of the relative ones. Few pairs at fast steps jump about."""
    pairs = zip(values, values[1:], strict=False)
    return statistics.median(abs(b - a) / max((a + b) / 2, 1e-12) for a, b in pairs)


def window(count: int) -> int:
    return max(LEAST_WINDOW, int(count * WINDOW_SHARE))


def broken_since(checks: Sequence[Checked]) -> int | None:
    """First step of the last checks in a row, two at least, on which both losses are far above the untrained net's."""
    return _above(checks, BROKEN, 2)


def worse_since(checks: Sequence[Checked]) -> int | None:
    """First step of the last checks in a row on which both losses are above the untrained net's: whatever the net says,
    images would be better without it."""
    return _above(checks, WORSE, WORSE_CHECKS)


def apart(checks: Sequence[Checked]) -> bool:
    """Whether the held-out loss is above that of the start in the last checks, and the training loss below."""
    first, last = checks[0], checks[1:][-WORSE_CHECKS:]
    return len(last) == WORSE_CHECKS and all(
        check.held_out_loss > WORSE * first.held_out_loss and check.training_loss * WORSE < first.training_loss
        for check in last
    )


def _above(checks: Sequence[Checked], times: float, least: int) -> int | None:
    """First step of the last checks in a row, ``least`` of them, on which both losses are so many times the first."""
    first, since, count = checks[0], None, 0
    for check in reversed(checks[1:]):
        ratios = (check.held_out_loss / first.held_out_loss, check.training_loss / first.training_loss)
        if min(ratios) < times:
            break
        since, count = check.step, count + 1
    return since if count >= least else None


def overfitting_since(checks: Sequence[Checked]) -> int | None:
    """Step of the lowest held-out loss, where it has risen since for a whole window while the training loss fell."""
    if len(checks) < 2 * LEAST_WINDOW:
        return None
    held_out = smooth([check.held_out_loss for check in checks])
    trained = smooth([check.training_loss for check in checks])
    lowest = min(range(len(held_out)), key=held_out.__getitem__)
    after = held_out[lowest + 1 :]
    if len(after) < LEAST_WINDOW:
        return None
    late = statistics.fmean(held_out[-LEAST_WINDOW:])
    rising = late / held_out[lowest] - 1 > max(RISE, RISE_NOISE * noise([check.held_out_loss for check in checks]))
    falling = statistics.fmean(trained[-LEAST_WINDOW:]) < trained[lowest]
    return checks[lowest].step if rising and falling else None


def flat_since(checks: Sequence[Checked]) -> int | None:
    """First step of the stretch in which neither loss nor gain improved; None where it is shorter than two windows.

    Improving: the best of a window beats the best of all before by FLAT_SHARE of the loss, or of the gain.
    """
    size = window(len(checks))
    if len(checks) < 3 * LEAST_WINDOW or len(checks) < 2 * size:
        return None
    losses = smooth([check.held_out_loss for check in checks])
    gains = smooth([check.gain_share for check in checks])
    start: int | None = None
    for first in range(len(checks) - size, 0, -1):
        lower = min(losses[:first]) - min(losses[first:])
        higher = max(gains[first:]) - max(gains[:first])
        if lower > FLAT_SHARE * min(losses[:first]) or higher > FLAT_SHARE * 5 * max(gains[:first]):
            break
        start = first
    if start is None or len(checks) - start < 2 * size:
        return None
    return checks[start].step
