"""Advice on a run: when the net should follow its control images, how long to train, how many images a step. No torch.

Pure functions. ``advise`` says it before the start and, with what the run has measured, while it goes.
Sources: the training guide of ControlNet's authors (its docs/train.md, "Sudden Converge Phenomenon"), runs in this
workspace, and the runs of docs/verdict.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from engine.machine.units import counted, format_duration

AUTHORS_STEPS, AUTHORS_BATCH = (3_000, 7_000), 4
"""Steps after which the authors' nets begin to follow their control images, suddenly; their images per step."""
FIRST_SIGN = (AUTHORS_STEPS[0] * AUTHORS_BATCH, AUTHORS_STEPS[1] * AUTHORS_BATCH)
"""The same in images."""
MOST_PER_STEP = 128
"""Images per step above which little is gained: the authors found 64 to 128 enough for complicated conditions."""
AFTER = 4
"""A whole run is this many times as long as a net takes to follow. A rule of thumb: then the net is "basically
functional" (authors), and the loss of the recorded runs was lowest after 6 times as long, or later."""
MOST_PASSES = 1_000
"""Times that each image is shown at most. A rule of thumb."""
SAME_IMAGES, OTHER_IMAGES = 1.5, 3.0
"""By this factor another run may begin earlier or later than recorded ones. On other images: four of the runs of
docs/verdict.md, with equal settings, began after 40, 50, 50 and 140 steps. On the same images: a rule of thumb."""
BEGINS = 0.05
"""Control gain with which a net counts as following (``MIN_GAIN`` of the verdict)."""
RISING = 3
"""Checks in a row, the gain of each above that of the one before, from which the time to ``BEGINS`` is extrapolated."""


CLOSE = 0.1
"""Numbers of steps that differ by less than this share are as good as equal."""
BATCH = "Images per step"
NO_FIGURES = "No figures are published for such a run, and none like it is in this workspace."


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


@dataclass(frozen=True)
class Line:
    """One piece of advice for people."""

    title: str
    text: str
    source: str = ""
    """Where it comes from, or why: sentences. May be empty."""

    @property
    def words(self) -> str:
        """All of it in a line, for the command line."""
        return f"{self.title}: {self.text}. {self.source}".strip()


@dataclass(frozen=True)
class Advice:
    """What to expect, and what to set."""

    follows: Span | None
    """When the net should begin to follow its control images. None: nothing is known, or it follows already."""
    steps: int
    """Of the whole run, to be trained at most; 0: nothing is known."""
    images_per_step: int
    seconds_per_step: float
    lines: tuple[Line, ...]
    other_steps: int = 0
    """``steps`` if that is another number than set, by more than ``CLOSE``; else 0."""
    late: bool = False
    """It should have begun by now."""

    @property
    def seconds(self) -> float:
        """Of the advised steps, with as many images a step as set. 0: unknown."""
        return self.steps * self.seconds_per_step


def advise(plan: RunPlan, progress: Progress | None = None) -> Advice:
    """The advice before a run starts, or corrected by what it has measured."""
    now = progress or Progress(0)
    pace = now.seconds_per_step or plan.seconds_per_step
    expected = _expected(plan)
    follows = _corrected(expected, now)
    late = expected is not None and now.follows_since is None and now.step >= expected.high
    unknown = NO_FIGURES if expected is None and now.follows_since is None else ""
    steps, why = _length(plan, follows, now)
    batch, why_batch = _batch(plan)
    lines = [
        Line("Follows its control images", _when(follows, now, late, pace), follows.source if follows else unknown),
        Line("Train", _how_long(plan, steps, now, pace), why),
        Line(
            BATCH,
            f"{batch:,}" if batch == plan.images_per_step else f"{batch:,} ({plan.images_per_step:,} are set)",
            why_batch,
        ),
    ]
    if pace:
        source = "measured in this run" if now.seconds_per_step else "measured" if plan.measured else "a rough estimate"
        lines.append(Line("Time per step", f"{_seconds(pace)}, {source}"))
    if not plan.published and batch == plan.images_per_step:
        lines = [line for line in lines if line.title != BATCH]  # it would say nothing
    other = steps if abs(steps - plan.steps) > CLOSE * plan.steps else 0
    return Advice(follows, steps, batch, pace, tuple(line for line in lines if line.text), other, late)


def _expected(plan: RunPlan) -> Span | None:
    """When a run like this begins, before it has measured anything. None: nothing is known."""
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
    low = FIRST_SIGN[0] / batch
    high = max(FIRST_SIGN[1] / batch, last)
    source = f"ControlNet's authors saw it after {first:,} to {counted(last, 'step')} of {AUTHORS_BATCH} images"
    if batch < AUTHORS_BATCH:
        source += ", here converted to as many images"
    if batch > AUTHORS_BATCH:
        source += ", and with more images expect hardly fewer steps; the lower figure is for as many images"
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
    source = f"{many} in this workspace {which}, with the same base and control type, began after {began}{of}."
    return Span(low, min(max(likely, low), high), high, source)


def _range_of(steps: Sequence[int]) -> str:
    """For people: "50 steps", "40 to 140 steps"."""
    low, high = min(steps), max(steps)
    return counted(high, "step") if low == high else f"{low:,} to {counted(high, 'step')}"


def _corrected(expected: Span | None, now: Progress) -> Span | None:
    """The range with what the run shows: it has not begun, or its gain rises. None: it follows, is late, or unknown."""
    if now.follows_since is not None:
        return None
    if (soon := _rising(now)) is not None:
        step, likely = soon
        gain = now.gains[-1][1]
        source = f"The control gain has risen to {gain:.1%}; from {BEGINS:.0%} on the net counts as following."
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


def _length(plan: RunPlan, follows: Span | None, now: Progress) -> tuple[int, str]:
    """Steps of the whole run, and why."""
    began = now.follows_since if now.follows_since is not None else follows.likely if follows is not None else None
    if began is None:
        return 0, ""
    steps = rounded(AFTER * max(began, 1))
    why = f"{AFTER} times as long as until it follows, by a rule of thumb: after that it still gets better."
    most = rounded(MOST_PASSES * plan.images / plan.images_per_step) if plan.images else steps
    if most < steps:
        return most, f"Not longer: each of {counted(plan.images, 'image')} is then shown {MOST_PASSES:,} times."
    return steps, why


def _batch(plan: RunPlan) -> tuple[int, str]:
    """Images per step, and why."""
    at_most = min(MOST_PER_STEP, plan.images or MOST_PER_STEP)
    batch = plan.images_per_step
    if plan.published and batch < AUTHORS_BATCH <= at_most:
        return AUTHORS_BATCH, "With fewer, steps contradict each other. Gradient accumulation needs no more memory."
    if batch > at_most:
        return at_most, "More take longer and teach hardly more."
    if not plan.published:
        return batch, ""
    return batch, (
        "If time is left, the authors raise this rather than the steps, by gradient accumulation: 64 to "
        f"{MOST_PER_STEP} are enough for complicated conditions."
    )


def _when(follows: Span | None, now: Progress, late: bool, pace: float) -> str:
    if now.follows_since is not None:
        return f"since step {now.follows_since:,}"
    if late and follows is None:
        return "not yet, later than expected"
    if follows is None:
        return "not known yet"
    low, likely, high = (rounded(value) for value in (follows.low, follows.likely, follows.high))
    if now.step and low <= now.step:
        text = f"by step {high:,}, most likely about step {likely:,}"
        return text + (
            f" (in about {format_duration((follows.likely - now.step) * pace)})"
            if pace and follows.likely > now.step
            else ""
        )
    text = f"after {low:,} to {counted(high, 'step')}, most likely about {likely:,}"
    if not pace:
        return text
    spans = [format_duration((value - now.step) * pace) for value in (follows.low, follows.high)]
    return f"{text}; that is {spans[0]} to {spans[1]}" + (" from now" if now.step else "")


def _how_long(plan: RunPlan, steps: int, now: Progress, pace: float) -> str:
    if not steps:
        return ""
    text = f"about {counted(steps, 'step')}"
    if pace:
        text += f", {format_duration(steps * pace)} in all"
    return text if steps == plan.steps else f"{text} ({plan.steps:,} are set)"


def rounded(steps: float) -> int:
    """A number of steps with two digits that count, at least 1: 18,330 -> 18,000; 4,583 -> 4,600."""
    whole = max(1, round(steps))
    return int(round(whole, 2 - len(str(whole)))) if whole >= 100 else whole


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else format_duration(seconds)
