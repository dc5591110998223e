"""Rules of the verdict (docs/verdict.md), as pure functions of a run's loss checks and of figures of its images.

Is the net broken or worse than untrained? Does it overfit, has it stopped improving, do its colours drift?
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Protocol

from engine.jobs.events import Checked

BROKEN = 2.0
"""The weights count as broken when both losses, held-out and training, exceed the untrained net's by this factor."""
WORSE, WORSE_CHECKS = 1.1, 3
"""A net counts as worse than none when both losses exceed the untrained net's by this factor, in this many checks."""

WINDOW_FRACTION, MIN_WINDOW = 0.25, 4
"""A window is this fraction of the checks since the net follows its control images, and at least so many checks."""
FLAT_LOSS = 0.02
"""A window improves the loss only if it lowers the best value so far by this fraction."""
FLAT_GAIN = 0.1
"""The same for the control gain, which scatters more: it is a small difference between two losses."""
RISE, RISE_NOISE = 0.02, 2.0
"""The held-out loss has risen if it is above its minimum by more than the fraction RISE, and by more than RISE_NOISE
times its usual change between two checks."""

COLOUR_NAMES = ("saturation", "contrast")
DRIFT = 1.25
"""Colours are off if their ratio to the originals, in either direction, exceeds this."""
FARTHER = 1.1
"""They must also be farther off, by this factor, than at the start, when the net did not change anything yet."""
DRIFT_SETS = 2
"""Number of consecutive sets of images that must show the drift."""


class Losses(Protocol):
    """What the rules on losses need of a check, whatever the run trains."""

    @property
    def step(self) -> int: ...
    @property
    def held_out_loss(self) -> float: ...
    @property
    def training_loss(self) -> float: ...


Figures = Sequence[tuple[int, dict[str, float]]]
"""(step, figures of the images drawn at it)."""


def smooth(values: Sequence[float], half: int = 1) -> list[float]:
    """The median over each value and ``half`` neighbours on either side, so single outliers have no effect."""
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def noise(values: Sequence[float]) -> float:
    """The median relative change between two checks. With few pairs and a high learning rate it is large."""
    pairs = zip(values, values[1:], strict=False)
    return statistics.median(abs(b - a) / max((a + b) / 2, 1e-12) for a, b in pairs)


def window(count: int) -> int:
    """The size of a window for ``count`` checks."""
    return max(MIN_WINDOW, int(count * WINDOW_FRACTION))


def broken_since(checks: Sequence[Losses]) -> int | None:
    """The step since which both losses are far above the untrained net's, for at least the last two checks."""
    return _above(checks, BROKEN, 2)


def worse_since(checks: Sequence[Losses]) -> int | None:
    """The step since which both losses are above the untrained net's: images would be better without the net."""
    return _above(checks, WORSE, WORSE_CHECKS)


def diverging(checks: Sequence[Checked]) -> bool:
    """Whether, in the last checks, the held-out loss is above its start and the training loss below its own."""
    first, last = checks[0], checks[1:][-WORSE_CHECKS:]
    return len(last) == WORSE_CHECKS and all(
        check.held_out_loss > WORSE * first.held_out_loss and check.training_loss * WORSE < first.training_loss
        for check in last
    )


def _above(checks: Sequence[Losses], factor: float, least: int) -> int | None:
    """The first step of the final run of checks, ``least`` or more, with both losses ``factor`` times the first."""
    first, since, count = checks[0], None, 0
    for check in reversed(checks[1:]):
        ratios = (check.held_out_loss / first.held_out_loss, check.training_loss / first.training_loss)
        if min(ratios) < factor:
            break
        since, count = check.step, count + 1
    return since if count >= least else None


def overfitting_since(checks: Sequence[Losses]) -> int | None:
    """The step of the lowest held-out loss, if that has risen for a whole window while the training loss fell."""
    if len(checks) < 2 * MIN_WINDOW:
        return None
    held_out = smooth([check.held_out_loss for check in checks])
    trained = smooth([check.training_loss for check in checks])
    lowest = min(range(len(held_out)), key=held_out.__getitem__)
    after = held_out[lowest + 1 :]
    if len(after) < MIN_WINDOW:
        return None
    late = statistics.fmean(held_out[-MIN_WINDOW:])
    rising = late / held_out[lowest] - 1 > max(RISE, RISE_NOISE * noise([check.held_out_loss for check in checks]))
    falling = statistics.fmean(trained[-MIN_WINDOW:]) < trained[lowest]
    return checks[lowest].step if rising and falling else None


def flat_since(checks: Sequence[Checked]) -> int | None:
    """The step since which neither loss nor gain has improved. None if that is less than two windows ago.

    The best value of a window improves on all earlier ones by more than FLAT_LOSS or FLAT_GAIN of these.
    """
    return no_better_since(
        [check.step for check in checks],
        [check.held_out_loss for check in checks],
        [check.gain_share for check in checks],
    )


def no_better_since(steps: Sequence[int], held_out: Sequence[float], gained: Sequence[float]) -> int | None:
    """``flat_since`` for the held-out losses and gains of checks at these steps."""
    size = window(len(steps))
    if len(steps) < 3 * MIN_WINDOW or len(steps) < 2 * size:
        return None
    losses, gains = smooth(held_out), smooth(gained)
    start: int | None = None
    for first in range(len(steps) - size, 0, -1):
        lower = min(losses[:first]) - min(losses[first:])
        higher = max(gains[first:]) - max(gains[:first])
        if lower > FLAT_LOSS * min(losses[:first]) or higher > FLAT_GAIN * max(gains[:first]):
            break
        start = first
    if start is None or len(steps) - start < 2 * size:
        return None
    return steps[start]


def drifting_since(figures: Figures) -> int | None:
    """The step since which colours are off, in at least DRIFT_SETS consecutive sets of images up to the last one.

    ``figures``: ratios to the originals. The first set shows what the base does without the net.
    """
    known = [(step, values) for step, values in figures if all(name in values for name in COLOUR_NAMES)]
    if len(known) <= DRIFT_SETS:
        return None
    start, since, count = known[0][1], None, 0
    for step, values in reversed(known[1:]):
        if not any(_off(values[name], start[name]) for name in COLOUR_NAMES):
            break
        since, count = step, count + 1
    return since if count >= DRIFT_SETS else None


def drift_text(figures: Figures) -> str:
    """Says which colours are off in the newest set. Only for figures that drift."""
    known = [values for _, values in figures if all(name in values for name in COLOUR_NAMES)]
    start, values = known[0], known[-1]
    return " and ".join(
        f"{name} is {values[name]:.0%} of that of the originals (at the start {start[name]:.0%})"
        for name in COLOUR_NAMES
        if _off(values[name], start[name])
    )


def _off(ratio: float, start: float) -> bool:
    now, then = (abs(math.log(max(value, 1e-3))) for value in (ratio, start))
    return now > math.log(DRIFT) and now > then + math.log(FARTHER)
