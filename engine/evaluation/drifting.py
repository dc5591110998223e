"""Do the colours of the control images drift? A rule of the verdict: docs/verdict.md. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

NAMES = ("saturation", "contrast")
DRIFT = 1.25
"""Ratio to the true images, either way, from which colours are off."""
FARTHER = 1.1
"""Factor by which they are farther off than at the start, when the net did not change anything yet."""
SETS = 2
"""Sets of images in a row that have to show it."""

Figures = Sequence[tuple[int, dict[str, float]]]


def drifting_since(figures: Figures) -> int | None:
    """Step of the first set of the last ones in a row, two at least, whose colours are off; None where they are not.

    ``figures``: (step, ratios to the true images); the first set is what the base does alone.
    """
    known = [(step, values) for step, values in figures if all(name in values for name in NAMES)]
    if len(known) <= SETS:
        return None
    start, since, count = known[0][1], None, 0
    for step, values in reversed(known[1:]):
        if not any(_off(values[name], start[name]) for name in NAMES):
            break
        since, count = step, count + 1
    return since if count >= SETS else None


def drift_words(figures: Figures) -> str:
    """What is off in the newest set, in words; for figures that drift."""
    known = [values for _, values in figures if all(name in values for name in NAMES)]
    start, values = known[0], known[-1]
    return " and ".join(
        f"{name} is {values[name]:.0%} of the true images' (at the start {start[name]:.0%})"
        for name in NAMES
        if _off(values[name], start[name])
    )


def _off(ratio: float, start: float) -> bool:
    now, then = (abs(math.log(max(value, 1e-3))) for value in (ratio, start))
    return now > math.log(DRIFT) and now > then + math.log(FARTHER)
