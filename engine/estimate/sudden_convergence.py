"""When a net should begin to follow its control images: from published figures, recorded runs and its own checks.

Pure functions, without torch. The published figures are from the training guide of ControlNet's authors (its
docs/train.md, "Sudden Converge Phenomenon").
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from engine.machine.units import counted

AUTHORS_STEPS, AUTHORS_BATCH = (3_000, 7_000), 4
"""Steps after which the authors' nets begin to follow their control images, suddenly; their images per step."""
CONVERGENCE_IMAGES = (AUTHORS_STEPS[0] * AUTHORS_BATCH, AUTHORS_STEPS[1] * AUTHORS_BATCH)
"""The same in images."""
SAME_IMAGES, OTHER_IMAGES = 1.5, 3.0
"""Another run may begin earlier or later than recorded ones by this factor. On other images: four of the runs of
docs/verdict.md, with equal settings, began after 40, 50, 50 and 140 steps. On the same images: a rule of thumb."""
BEGINS = 0.05
"""Control gain with which a net counts as following (``MIN_GAIN`` of the verdict)."""
RISING = 3
"""Checks in a row, the gain of each above that of the one before, from which the time to ``BEGINS`` is extrapolated."""


@dataclass(frozen=True)
class Recorded:
    """A run in this workspace that is like the one to advise on, and began to follow its control images."""

    run: str
    steps: int
    """The first check at which it followed."""
    before: int
    """The check before. It began in between."""
    images_per_step: int
    same_images: bool
    """It was trained on the same dataset."""


@dataclass(frozen=True)
class RunPlan:
    """Facts about the run to advise on."""

    steps: int
    """As set."""
    images_per_step: int
    images: int = 0
    """That it trains on; 0: unknown."""
    published: bool = True
    """The authors' figures apply: a new ControlNet or Control-LoRA on a base of usual size."""
    seconds_per_step: float = 0.0
    """0: unknown."""
    measured: bool = False
    """``seconds_per_step`` was measured on this machine."""
    recorded: tuple[Recorded, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What the run has measured so far."""

    step: int
    gains: Sequence[tuple[int, float]] = ()
    """(step, control gain as a share of the loss) of each check."""
    follows_since: int | None = None
    seconds_per_step: float = 0.0
    """0: not measured yet."""


@dataclass(frozen=True)
class Span:
    """Steps since the start of the run, ``low <= likely <= high``."""

    low: float
    likely: float
    high: float
    source: str
    """Where the figures come from, as a sentence."""


def expected_span(plan: RunPlan) -> Span | None:
    """When a run like this begins to follow, before it has measured anything. None: nothing is known."""
    alike = [run for run in plan.recorded if run.same_images]
    others = [run for run in plan.recorded if not run.same_images]
    published = _published(plan.images_per_step) if plan.published else None
    if alike:
        return _of_runs(alike, plan.images_per_step, SAME_IMAGES, "on these images")
    if not others:
        return published
    found = _of_runs(others, plan.images_per_step, OTHER_IMAGES, "on other images")
    if published is None or found.high <= published.low or found.low >= published.high:
        return found
    low, high = max(found.low, published.low), min(found.high, published.high)
    return Span(low, min(max(found.likely, low), high), high, f"{found.source} {published.source}")


def _published(batch: int) -> Span:
    """The authors' figures. With fewer images a step than theirs, images count, since such steps contradict each other.

    With more they expect as many steps; a run that learns from each image as much begins earlier.
    """
    first, last = AUTHORS_STEPS
    low = CONVERGENCE_IMAGES[0] / batch
    high = max(CONVERGENCE_IMAGES[1] / batch, last)
    source = f"ControlNet's authors saw it after {first:,} to {counted(last, 'step')} of {AUTHORS_BATCH} images"
    if batch < AUTHORS_BATCH:
        source += ", here converted to the same number of images"
    if batch > AUTHORS_BATCH:
        source += (
            "; more images hardly lower the number of steps, and the lower figure is for the same number of images"
        )
    return Span(low, (low * high) ** 0.5, high, f"{source}.")


def _of_runs(runs: Sequence[Recorded], batch: int, spread: float, which: str) -> Span:
    """From recorded runs. If they had another number of images per step, the range covers as many steps and images."""
    factors = [run.images_per_step / batch for run in runs]
    low = min(max(run.before, 1) * min(1, by) for run, by in zip(runs, factors, strict=True)) / spread
    high = max(run.steps * max(1, by) for run, by in zip(runs, factors, strict=True)) * spread
    likely = statistics.median(run.steps * by**0.5 for run, by in zip(runs, factors, strict=True))
    began = _range_of([run.steps for run in runs])
    others = sorted({run.images_per_step for run in runs})
    of = "" if others == [batch] else f" of {' or '.join(map(str, others))} images"
    many = counted(len(runs), "run", "runs")
    source = (
        f"{many} in this workspace {which}, with the same base and control type, began to follow after {began}{of}."
    )
    return Span(low, min(max(likely, low), high), high, source)


def _range_of(steps: Sequence[int]) -> str:
    """For people: "50 steps", "40 to 140 steps"."""
    low, high = min(steps), max(steps)
    return counted(high, "step") if low == high else f"{low:,} to {counted(high, 'step')}"


def corrected_span(expected: Span | None, now: Progress) -> Span | None:
    """The range with what the run shows: it has not begun, or its gain rises. None: it follows, is late, or unknown."""
    if now.follows_since is not None:
        return None
    if (soon := _rising(now)) is not None:
        step, likely = soon
        gain = now.gains[-1][1]
        source = f"The control gain has risen to {gain:.1%}; from {BEGINS:.0%} the net counts as following."
        return Span(step, likely, step + 3 * (likely - step), source)
    if expected is None or now.step >= expected.high:
        return None
    low = max(expected.low, now.step)
    return Span(
        low, expected.likely if expected.likely >= low else (low * expected.high) ** 0.5, expected.high, expected.source
    )


def _rising(now: Progress) -> tuple[int, float] | None:
    """(step of the last check, step at which the gain reaches ``BEGINS`` if it rises on), or None."""
    last = list(now.gains)[-RISING:]
    if len(last) < RISING or any(b[1] <= a[1] for a, b in zip(last, last[1:], strict=False)):
        return None
    (first, lower), (step, gain) = last[0], last[-1]
    if gain < BEGINS / 5 or step <= first:  # below a fifth it is noise
        return None
    slope = (gain - lower) / (step - first)
    return step, max(step + (BEGINS - gain) / slope, step + (step - first) / (len(last) - 1))
