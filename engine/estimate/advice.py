"""Advice on a run: when its net should follow its control images, how long to train it, with which batch. No torch.

Pure functions. ``advise`` says it before the start and, with what the run has measured, while it goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.estimate.sudden_convergence import AUTHORS_BATCH, Progress, RunPlan, Span, corrected_span, expected_span
from engine.machine.units import counted, format_duration

MOST_PER_STEP = 128
"""Images per step above which little is gained: the authors found 64 to 128 enough for complicated conditions."""
AFTER = 4
"""A whole run is this many times as long as a net takes to follow. A rule of thumb: then the net is "basically
functional" (authors), and the loss of the recorded runs was lowest after 6 times as long, or later."""
MOST_PASSES = 1_000
"""The most times that each image is shown. A rule of thumb."""
CLOSE = 0.1
"""Numbers of steps that differ by less than this share count as equal."""
LENGTH, BATCH = "Recommended length", "Images per step"
NO_FIGURES = "No figures are published for runs like this one, and there is none in this workspace."


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
    """``steps`` if that differs from the setting by more than ``CLOSE``; else 0."""
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
    expected = expected_span(plan)
    follows = corrected_span(expected, now)
    late = expected is not None and now.follows_since is None and now.step >= expected.high
    unknown = NO_FIGURES if expected is None and now.follows_since is None else ""
    steps, why = _length(plan, follows, now)
    batch, why_batch = _batch(plan)
    lines = [
        Line("Follows its control images", _when(follows, now, late, pace), follows.source if follows else unknown),
        Line(LENGTH, _how_long(plan, steps, now, pace), f"{why} {_pace(plan, now, pace)}".strip()),
        Line(
            BATCH,
            f"{batch:,}" if batch == plan.images_per_step else f"{batch:,} (now set to {plan.images_per_step:,})",
            why_batch,
        ),
    ]
    if not plan.published and batch == plan.images_per_step:
        lines = [line for line in lines if line.title != BATCH]  # it would say nothing
    other = steps if abs(steps - plan.steps) > CLOSE * plan.steps else 0
    return Advice(follows, steps, batch, pace, tuple(line for line in lines if line.text), other, late)


def _length(plan: RunPlan, follows: Span | None, now: Progress) -> tuple[int, str]:
    """Steps of the whole run, and why."""
    began = now.follows_since if now.follows_since is not None else follows.likely if follows is not None else None
    if began is None:
        return 0, ""
    steps = rounded(AFTER * max(began, 1))
    why = f"{AFTER} times as long as it takes to follow, a rule of thumb: the net still improves after that."
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
        return at_most, "More images take longer and teach hardly more."
    if not plan.published:
        return batch, ""
    return batch, (
        "If there is time, the authors recommend raising this rather than the steps, by gradient accumulation: "
        f"64 to {MOST_PER_STEP} are enough for complicated conditions."
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
        text += f", {format_duration(steps * pace)} in total"
    return text if steps == plan.steps else f"{text} (now set to {plan.steps:,})"


def rounded(steps: float) -> int:
    """A number of steps with two significant digits, at least 1: 18,330 -> 18,000; 4,583 -> 4,600."""
    whole = max(1, round(steps))
    return int(round(whole, 2 - len(str(whole)))) if whole >= 100 else whole


def _pace(plan: RunPlan, now: Progress, pace: float) -> str:
    """Where the times come from, as a sentence."""
    if not pace:
        return ""
    source = "measured in this run" if now.seconds_per_step else "measured" if plan.measured else "a rough estimate"
    return f"A step takes {f'{pace:.2g} s' if pace < 10 else format_duration(pace)}, {source}."
