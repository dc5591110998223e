"""The verdict on a run that teaches the base: a LoRA, a word, the whole base (docs/verdict.md has the rules).

Pure functions of what the run has recorded: its gain on held-out images, its drift on other captions, and copies of
training images among its previews.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import RunConfig
from engine.evaluation.causes import Cause
from engine.evaluation.verdict import Verdict
from engine.evaluation.verdict_rules import (
    Figures,
    broken_since,
    no_better_since,
    overfitting_since,
    smooth,
    worse_since,
)
from engine.jobs.events import BaseChecked
from engine.machine.units import counted

MIN_GAIN, MIN_STANDARD_ERRORS = 0.01, 2.0
"""Something is learned if the gain exceeds both 1 % and this many standard errors."""
NEAR_BEST = 0.95
"""Checkpoints with this share of the highest gain are about equally good; drift decides between them."""
FORGETS, FORGETS_CHECKS = 1.0, 3
"""The base forgets if, in this many checks up to the last, the drift is above the gain by this factor."""
BY_HEART, BY_HEART_CHECKS = 1.5, 3
"""Training images are learned by heart if, in this many checks up to the last, the share left of the base's loss
is this many times as large on held-out images as on training images."""
COPIES, COPY_SETS = 0.25, 2
"""Previews are copies if, in this many sets up to the last, this share of them or more nearly equals a training image,
beyond the share of the originals that do."""
FEW_IMAGES = 15
"""Fewer training images are named as a cause."""


@dataclass(frozen=True)
class TeachingFacts:
    """Facts about a run, besides its figures, that the rules use."""

    total_steps: int
    learning_rate: float
    images: int = 0
    """Training images; 0: unknown."""
    preserves: bool = False
    """Each step also trains on what the base should not forget."""


def teaching_facts(config: RunConfig, images: int = 0) -> TeachingFacts:
    """The facts of a run with these settings."""
    preserves = config.tuning.preserved_by != "none"
    return TeachingFacts(config.train.steps, config.optim.learning_rate, images, preserves)


def learned(check: BaseChecked) -> bool:
    """Whether the gain of one check is neither chance nor negligible."""
    return check.gain > max(MIN_GAIN, MIN_STANDARD_ERRORS * check.gain_error)


def learned_since(checks: Sequence[BaseChecked]) -> int | None:
    """The first of the checks up to the last which all show that something is learned, at least two; None: too few."""
    since, count = None, 0
    for check in reversed(checks):
        if not learned(check):
            break
        since, count = check.step, count + 1
    return since if count > 1 else None


def judge_teaching(
    checks: Sequence[BaseChecked], facts: TeachingFacts, checkpoints: Sequence[int] = (), figures: Figures = ()
) -> Verdict:
    """The verdict on a run so far.

    Args:
        checks: in the order of their steps. The first is of the untrained base.
        checkpoints: steps of the checkpoints on disk.
        figures: (step, figures) of the preview images.
    """
    if not checks:
        return Verdict("too_early", "Nothing has been measured yet.")
    evidence = _evidence(checks[-1])
    broke, worse = broken_since(checks), worse_since(checks)
    if broke is not None or worse is not None:
        return _damaged(checks, facts, broke, worse, checkpoints, evidence)
    since, best = learned_since(checks), best_checkpoint(checks, checkpoints)
    named = f" Best checkpoint so far: step {best:,}." if best is not None else ""

    copied = _copies_since(figures)
    turned = min(
        (step for step in (overfitting_since(checks), _by_heart_since(checks)) if step is not None), default=None
    )
    if copied is not None or turned is not None:
        at = copied if copied is not None else turned
        what = "The previews have been copies of training images" if copied is not None else "Overfitting"
        text = f"{what} since step {at:,}: the images are learned by heart, not what they have in common."
        return Verdict("memorizing", text + named, evidence, _of_memorizing(facts), since, at, best)
    if since is None:
        return _not_learning(checks, facts, best, evidence)
    if (forgets := forgetting_since(checks)) is not None:
        text = (
            f"The base has been forgetting other things since step {forgets:,}: it changes more on other captions than "
            "it gains on these images."
        )
        return Verdict("forgetting", text + named, evidence, _of_forgetting(facts), since, forgets, best)
    after = [check for check in checks if check.step >= since]
    flat = no_better_since([c.step for c in after], [c.held_out_loss for c in after], [c.gain for c in after])
    if flat is not None:
        text = f"Flat since step {flat:,}: the images are learned, and the gain no longer rises. Consider stopping."
        return Verdict("flat", text + named, evidence, (), since, flat, best)
    text = f"The base has been learning these images since step {since:,}. It is usable and still improving."
    return Verdict("improving", text + named, evidence, (), since, None, best)


def forgetting_since(checks: Sequence[BaseChecked]) -> int | None:
    """The step since which the drift is above the gain, for at least ``FORGETS_CHECKS`` checks."""
    since, count = None, 0
    for check in reversed(checks):
        if check.drift <= FORGETS * check.gain:
            break
        since, count = check.step, count + 1
    return since if count >= FORGETS_CHECKS else None


def best_checkpoint(checks: Sequence[BaseChecked], checkpoints: Sequence[int]) -> int | None:
    """Among checkpoints with ``NEAR_BEST`` of the highest gain nearby, the one with the most gain for its drift.

    None without a checkpoint that has gained anything.
    """
    steps = [check.step for check in checks]
    gains, drifts = (smooth(values) for values in ([c.gain for c in checks], [c.drift for c in checks]))

    def near(step: int) -> int:
        return min(range(len(steps)), key=lambda at: (abs(steps[at] - step), steps[at]))

    gained = {step: (gains[near(step)], drifts[near(step)]) for step in checkpoints if gains[near(step)] > MIN_GAIN}
    highest = max((gain for gain, _ in gained.values()), default=0.0)
    close = [step for step, (gain, _) in gained.items() if gain >= NEAR_BEST * highest]
    return max(close, key=lambda step: (gained[step][0] / max(gained[step][1], 1e-9), step), default=None)


def _by_heart_since(checks: Sequence[BaseChecked]) -> int | None:
    since, count = None, 0
    for check in reversed(checks):
        if 1 - check.gain < BY_HEART * (1 - check.training_gain):
            break
        since, count = check.step, count + 1
    return since if count >= BY_HEART_CHECKS else None


def _copies_since(figures: Figures) -> int | None:
    since, count = None, 0
    for step, values in reversed(figures):
        if values.get("near_copies", 0.0) < COPIES + values.get("near_originals", 0.0):
            break
        since, count = step, count + 1
    return since if count >= COPY_SETS else None


def _damaged(
    checks: Sequence[BaseChecked],
    facts: TeachingFacts,
    broke: int | None,
    worse: int | None,
    checkpoints: Sequence[int],
    evidence: tuple[str, ...],
) -> Verdict:
    """Both losses are above the untrained base's."""
    at = min(step for step in (broke, worse) if step is not None)
    best = max((step for step in checkpoints if step < at), default=None)
    back = f" Go back to the checkpoint of step {best:,}." if best else ""
    ratio = checks[-1].held_out_loss / checks[0].held_out_loss
    kind, text = "worse", f"Worse than the untrained base since step {at:,}: the loss is {ratio - 1:.0%} higher."
    if broke is not None:
        kind = "broken"
        text = f"The weights were broken by step {broke:,}: the loss is {ratio:,.1f} times the untrained base's."
    cause = Cause(
        f"The learning rate ({facts.learning_rate:g}) is too high: start again with a third of it, or resume from an "
        "earlier checkpoint (Resume with other settings).",
        "settings",
    )
    return Verdict(kind, text + back, evidence, (cause,), None, at, best)  # type: ignore[arg-type]


def _not_learning(
    checks: Sequence[BaseChecked], facts: TeachingFacts, best: int | None, evidence: tuple[str, ...]
) -> Verdict:
    last = checks[-1]
    text = "The base has not learned these images yet."
    if not last.step:
        return Verdict("not_learning", f"{text} The training has only begun.", evidence)
    after = f" That is after {counted(last.images_seen, 'image')}."
    if last.step >= facts.total_steps:
        after = f" The run has ended after {counted(last.images_seen, 'image')}."
    low = Cause(
        f"The learning rate ({facts.learning_rate:g}) may be too low, or the run too short: 1e-4 and 1,000 to 3,000 "
        "steps are usual for a LoRA.",
        "settings",
    )
    captions = Cause("The captions may not say what the images have in common.", "dataset")
    return Verdict("not_learning", text + after, evidence, (low, captions), best=best)


def _of_memorizing(facts: TeachingFacts) -> tuple[Cause, ...]:
    shorter = Cause("The run is too long for its images: use an earlier checkpoint, or fewer steps.", "settings")
    if not 0 < facts.images < FEW_IMAGES:
        return (shorter,)
    images = counted(facts.images, "training image is", "training images are")
    return (Cause(f"{images} few; 15 to 100 are usual.", "dataset"), shorter)


def _of_forgetting(facts: TeachingFacts) -> tuple[Cause, ...]:
    unkept = Cause("Nothing in the run preserves what the base knows (Preserve what the base knows).", "settings")
    return (
        *(() if facts.preserves else (unkept,)),
        Cause(f"The learning rate ({facts.learning_rate:g}) is high for these images: try a third of it.", "settings"),
        Cause("The run is long for its images: use an earlier checkpoint.", "settings"),
    )


def _evidence(check: BaseChecked) -> tuple[str, ...]:
    if not check.step:
        return ()
    return (
        f"Gain: on held-out images the loss is {check.gain:z.1%} (± {check.gain_error:.1%}) below the untrained "
        f"base's; on training images {check.training_gain:z.1%}.",
        f"Drift: on other captions the predictions have changed by {check.drift:.1%} (± {check.drift_error:.1%}) of "
        "its loss.",
    )
