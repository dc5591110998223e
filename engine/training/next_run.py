"""What to try after a run has ended, from its verdict. Pure but for ``after``. Imports no torch. docs/training.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig
from engine.errors import Offer, UserError
from engine.estimate.advice import MOST_PASSES, MOST_PER_STEP, Advice, rounded
from engine.evaluation.run_verdict import verdict_of
from engine.evaluation.verdict import Verdict
from engine.jobs.snapshot import JobSnapshot
from engine.machine.hardware import Hardware
from engine.machine.units import counted
from engine.runs.changes import with_settings
from engine.runs.run import Run
from engine.training.advisor import advice_on
from engine.training.caution import StartFacts
from engine.training.cautions import TOO_LOW, number, usual_rate
from engine.training.image_cautions import number_of_images
from engine.training.start_facts import start_facts
from engine.tuning.facts import facts_of
from engine.workspace.paths import Workspace

LONGER = 1.5
"""A run that is still improving is trained this many times as long, or as long as the advice says if that is longer."""
LARGER_BATCH = 4
"""Times as many images per step after a run that has stopped getting better."""


@dataclass(frozen=True)
class NextRun:
    """A run to try: a button in the window, a command on the command line."""

    title: str
    """The text of the button."""
    why: str
    """Sentences."""
    settings: Mapping[str, Any]
    """New values by dotted name; the others are those of the run that has ended."""
    resumes: bool = False
    """The run that has ended continues with them, instead of a new one."""

    def arguments(self, run: str) -> list[str]:
        """Arguments of ``python -m engine.cli`` that do the same. ``run``: name of the one that has ended."""
        resume, name, *changes = Offer(self.title, run, self.settings).arguments
        return [resume, name, *changes] if self.resumes else ["train", "--from-run", name, *changes]


def after(workspace: Workspace, run: Run, history: JobSnapshot, hardware: Hardware) -> NextRun | None:
    """What to try after a run that has ended. None: nothing known would help, or its dataset or base is gone."""
    verdict, advice = verdict_of(history, workspace.datasets), advice_on(workspace, run, history)
    if verdict is None:
        return None
    try:
        return next_run(verdict, run.config, advice, start_facts(workspace, run.config, hardware))
    except UserError:
        return None


def next_run(verdict: Verdict, config: RunConfig, advice: Advice | None, facts: StartFacts) -> NextRun | None:
    """The next run to try. None where settings would not help: the verdict's causes then say where to look.

    Args:
        advice: None for a run that teaches the base.
    """
    found = _after_teaching(verdict, config, facts) if advice is None else _by_verdict(verdict, config, advice, facts)
    if found is None:
        return None
    try:
        with_settings(config, found.settings)
    except UserError:
        return None  # they contradict the others, such as accumulation with updates in the backward pass
    return found


def _by_verdict(verdict: Verdict, config: RunConfig, advice: Advice, facts: StartFacts) -> NextRun | None:
    if verdict.kind in ("broken", "worse"):
        return _rate(config, config.optim.learning_rate / 3, "The loss rose above that of an untrained net.")
    if verdict.kind == "drifting":
        return _rate(config, config.optim.learning_rate / 2, "Colours drift less at a lower learning rate.")
    if verdict.kind == "overfitting":
        return _against_overfitting(verdict, config, facts)
    if verdict.kind == "flat":
        why = "More steps would change little. ControlNet's authors then advise more images per step."
        return _more_images(config, facts, LARGER_BATCH * config.images_per_step, why)
    if verdict.kind in ("improving", "not_usable_yet"):
        steps = max(advice.steps, rounded(LONGER * config.train.steps))
        return _longer(config, facts, steps, "It was still improving.")
    usual = usual_rate(config, facts)
    if usual and config.optim.learning_rate < TOO_LOW * usual:
        return _rate(config, usual, "The learning rate was far below the usual one.")
    if verdict.kind == "not_following" and advice.steps:
        return _longer(config, facts, advice.steps, "It was too short for a net that begins to follow suddenly.")
    if verdict.kind == "ignored" and advice.images_per_step > config.images_per_step:
        return _more_images(config, facts, advice.images_per_step, "With so few images, steps contradict each other.")
    return None


def _after_teaching(verdict: Verdict, config: RunConfig, facts: StartFacts) -> NextRun | None:
    rate, usual = config.optim.learning_rate, usual_rate(config, facts)
    if verdict.kind in ("broken", "worse"):
        return _rate(config, rate / 3, "The loss rose above that of the untrained base.")
    if verdict.kind == "forgetting" and config.tuning.preserved_by == "none" and facts_of(config).rank:
        why = "The base forgot other things. Each step then also trains on its own answers; it takes twice the time."
        return NextRun("New run that preserves what the base knows", why, {"tuning.preserve": "answers"})
    if verdict.kind == "forgetting":
        return _rate(config, rate / 3, "A lower rate changes the base less on other captions.")
    if verdict.kind == "memorizing":
        return _shorter(config, verdict.best or 0, "After that it learned its images by heart.")
    if verdict.kind == "not_learning" and usual and rate < TOO_LOW * usual:
        return _rate(config, usual, "The learning rate was far below the usual one.")
    if verdict.kind == "behind":
        return _longer(config, facts, rounded(LONGER * config.train.steps), "Few steps were not yet as good as many.")
    if verdict.kind in ("improving", "not_learning"):
        still = "It was still improving." if verdict.kind == "improving" else "It was too short to learn anything."
        return _longer(config, facts, rounded(LONGER * config.train.steps), still)
    return None


def _rate(config: RunConfig, rate: float, why: str) -> NextRun:
    rate = float(f"{rate:.1g}")
    words = f"{why} Learning rate {number(config.optim.learning_rate)} → {number(rate)}."
    return NextRun(f"New run with learning rate {number(rate)}", words, {"optim.learning_rate": rate})


def _longer(config: RunConfig, facts: StartFacts, steps: int, why: str) -> NextRun | None:
    """More steps for the same run, unless each image would be shown too often."""
    most = rounded(MOST_PASSES * facts.images / config.images_per_step) if facts.images else steps
    steps = min(steps, most)
    if steps <= config.train.steps:
        return None
    words = f"{why} Steps {config.train.steps:,} → {steps:,}; what it has learned so far is kept."
    return NextRun(f"Resume up to step {steps:,}", words, {"train.steps": steps}, resumes=True)


def _more_images(config: RunConfig, facts: StartFacts, wanted: int, why: str) -> NextRun | None:
    """More gradient accumulation: no more memory, and as many times the time."""
    times = min(wanted, MOST_PER_STEP, facts.images or wanted) // config.images_per_step
    if times < 2:
        return None
    now, more = config.images_per_step, counted(config.images_per_step * times, "image")
    words = (
        f"{why} Here {now:,} → {more}, by gradient accumulation: the same memory, {counted(times, 'time')} the time."
    )
    return NextRun(f"New run with {more} per step", words, {"train.accumulation": config.train.accumulation * times})


def _against_overfitting(verdict: Verdict, config: RunConfig, facts: StartFacts) -> NextRun | None:
    """Fewer weights for few images, else a run that ends where this one began to get worse."""
    few = number_of_images(config, facts)
    if few is not None and few.offer is not None:
        words = f"{few.what} {few.try_this}"
        return NextRun("New run with a Control-LoRA", words, few.offer.settings)
    since = verdict.since or 0
    return _shorter(config, since, f"Since step {since:,} it has been memorizing its images.")


def _shorter(config: RunConfig, steps: int, why: str) -> NextRun | None:
    """A run that ends at a step of this one. ``steps``: 0: none is known."""
    if not 0 < steps < config.train.steps:
        return None
    steps = rounded(steps)
    words = f"{why} More images would help more than a shorter run."
    return NextRun(f"New run of {counted(steps, 'step')}", words, {"train.steps": steps})
