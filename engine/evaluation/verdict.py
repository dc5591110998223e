"""The verdict on a ControlNet: one sentence, the evidence, likely causes, the best checkpoint (docs/verdict.md).

``teaching_verdict.py`` judges runs that teach the base.

Pure functions of what the run has recorded.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.evaluation import causes
from engine.evaluation.causes import BLANK, Cause, Facts
from engine.evaluation.verdict_rules import (
    broken_since,
    diverging,
    drift_text,
    drifting_since,
    flat_since,
    overfitting_since,
    smooth,
    worse_since,
)
from engine.jobs.events import Checked
from engine.machine.units import counted

Kind = Literal[
    "too_early",
    "not_following",
    "ignored",
    "broken",
    "worse",
    "not_usable_yet",
    "improving",
    "flat",
    "overfitting",
    "drifting",
    "not_learning",
    "memorizing",
    "forgetting",
    "as_good",
    "behind",
]

MIN_STANDARD_ERRORS = 2.0
"""A net follows its control images only if the control gain exceeds zero by this many standard errors..."""
MIN_GAIN = 0.05
"""...and exceeds this fraction of the loss."""
USABLE = 0.3
"""Least adherence (docs/adherence.md) of a net that is called usable."""


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    sentence: str
    evidence: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    """What may be wrong, the likeliest first."""
    follows_since: int | None = None
    """Step since which the net follows its control images."""
    since: int | None = None
    """Step since which it is flat, overfits, or its colours drift."""
    best: int | None = None
    """Step of the checkpoint to use."""


def follows(check: Checked) -> bool:
    """Whether the control gain of one check is neither chance nor negligible."""
    return check.gain_share > max(MIN_GAIN, MIN_STANDARD_ERRORS * check.share_error)


def convergence(checks: Sequence[Checked]) -> int | None:
    """The step since which the net follows its control images, or None.

    That is the first of two consecutive checks that do. Later, single checks that do not are ignored; two in a row are
    not.
    """
    if not checks:
        return None
    since: int | None = None
    misses = 0
    for check, following in zip(checks, [*checks[1:], None], strict=True):
        if follows(check):
            misses = 0
            if since is None and following is not None and follows(following):
                since = check.step
        elif since is not None:
            misses += 1
            if misses > 1:
                since = None
    return since


def judge(
    checks: Sequence[Checked],
    facts: Facts,
    scores: Sequence[tuple[int, dict[str, float]]] = (),
    checkpoints: Sequence[int] = (),
    figures: Sequence[tuple[int, dict[str, float]]] = (),
) -> Verdict:
    """The verdict on a run so far.

    Args:
        checks: in the order of their steps. The first is of an untrained net.
        scores: (step, mean scores) of the preview images, for the evidence and to choose between checkpoints of equal
            loss.
        checkpoints: steps of the checkpoints on disk.
        figures: (step, figures) of the preview images: saturation and contrast as ratios to the originals, and the
            interval of the adherence. The first are of an untrained net.
    """
    if not checks:
        return Verdict("too_early", "Nothing has been measured yet.")
    since, broke, worse = convergence(checks), broken_since(checks), worse_since(checks)
    if broke is not None:
        sound = [step for step in checkpoints if step < min(broke, worse or broke)]
        return _higher_loss("broken", checks, facts, broke, sound)
    if worse is not None and checks[-1].map_difference >= BLANK:
        return _higher_loss("worse", checks, facts, worse, [step for step in checkpoints if step < worse])
    best = best_checkpoint(checks, scores, checkpoints, since)
    drifts = drifting_since(figures)
    drift = f"Colours have drifted since step {drifts:,}: {drift_text(figures)}." if drifts is not None else ""
    if since is None:
        return _not_following(checks, facts, best, drifts, drift)
    evidence = [*_gain_evidence(checks[-1]), *_loss_evidence(checks), *_score_evidence(scores)]
    following = [check for check in checks if check.step >= since]
    turned = overfitting_since(following)
    if turned is None and diverging(checks):
        turned = min(following, key=lambda check: check.held_out_loss).step
    if turned is not None:
        text = f"Overfitting since step {turned:,}: the net gets better on training images and worse on held-out ones."
        return _following("overfitting", text, evidence, since, turned, best, causes.of_few_pairs(facts))
    if drift:
        text = f"{drift} An earlier checkpoint may look better."
        return _following("drifting", text, evidence, since, drifts, best, causes.of_diverging_losses(checks, facts))
    flat = flat_since(following)
    if flat is not None:
        text = (
            f"Flat since step {flat:,}: the net follows its control images but no longer improves. Consider stopping."
        )
        return _following("flat", text, evidence, since, flat, best)
    first = next(check for check in checks if check.step >= since)
    text = f"The net has followed its control images since step {since:,} ({counted(first.images_seen, 'image')})"
    if weak := _weak_adherence(since, scores, figures):
        return _following("not_usable_yet", f"{text} and is still improving. {weak}", evidence, since, None, best)
    return _following("improving", f"{text}. It is usable and still improving.", evidence, since, None, best)


def _following(
    kind: Kind,
    text: str,
    evidence: Sequence[str],
    follows_since: int,
    since: int | None,
    best: int | None,
    found: Sequence[Cause] = (),
) -> Verdict:
    named = f" Best checkpoint so far: step {best:,}." if best is not None else ""
    return Verdict(kind, text + named, tuple(evidence), tuple(found), follows_since, since, best)


def _higher_loss(kind: Kind, checks: Sequence[Checked], facts: Facts, since: int, sound: Sequence[int]) -> Verdict:
    """Both losses are above those at the start. ``sound``: checkpoints from before that. The newest is the best."""
    ratio = checks[-1].held_out_loss / checks[0].held_out_loss
    text = f"The weights were broken by step {since:,}: the loss is {ratio:,.0f} times that of an untrained net."
    if kind == "worse":
        text = f"Worse than at the start since step {since:,}: the loss is {ratio - 1:.0%} higher than it was then."
    best = max(sound, default=None)
    back = f" Go back to the checkpoint of step {best:,}." if best else ""
    evidence = (*_gain_evidence(checks[-1]), *_loss_evidence(checks))
    return Verdict(kind, text + back, evidence, causes.of_higher_loss(facts), None, since, best)


def _not_following(
    checks: Sequence[Checked], facts: Facts, best: int | None, drifts: int | None, drift: str
) -> Verdict:
    """``drifts``: the step since which colours have drifted. ``drift``: a sentence about it."""
    last = checks[-1]
    evidence = (*_gain_evidence(last), *_loss_evidence(checks))
    if last.map_difference < BLANK:
        text = "The control images are ignored: they are blank."
        return Verdict("ignored", text, evidence, causes.of_blank_maps(last, facts), best=best)
    if last.images_seen >= facts.follows_by and not follows(last):
        text = (
            f"The control images are ignored: after {counted(last.images_seen, 'image')} the net does not follow them."
        )
        all_evidence = (*evidence, drift) if drift else evidence
        return Verdict("ignored", text, all_evidence, causes.of_ignored_maps(checks, facts), best=best)
    found = causes.of_diverging_losses(checks, facts)
    if drift:
        text = f"{drift} The net does not follow its control images yet."
        return Verdict("drifting", text, evidence, found, None, drifts, best)
    if follows(last):
        text = f"The net may have started to follow its control images at step {last.step:,}; the next check will show."
    elif last.step >= facts.total_steps:
        few = counted(last.images_seen, "image is", "images are")
        text = (
            f"The net does not follow its control images at the end of the run. {few} often too few; plan for up "
            f"to {facts.follows_by:,}."
        )
    else:
        seen = f"after {counted(last.images_seen, 'image')}" if last.images_seen else "at the start"
        text = (
            f"The net does not follow its control images yet. That is normal {seen}: it starts to do so "
            f"suddenly, usually within {facts.follows_by:,} images."
        )
    return Verdict("not_following", text, evidence, found, best=best)


def best_checkpoint(
    checks: Sequence[Checked],
    scores: Sequence[tuple[int, dict[str, float]]],
    checkpoints: Sequence[int],
    since: int | None,
) -> int | None:
    """The checkpoint with the lowest held-out loss nearby, among those that follow their control images.

    Among losses within one percent of the lowest, the higher score of the preview images decides, then the later step.
    ``since``: the step of ``convergence``. If it is None, the newest checkpoint is the best.
    """
    usable = [step for step in checkpoints if since is None or step >= since]
    if not usable or since is None:
        return max(usable or checkpoints, default=None)
    losses = dict(zip([c.step for c in checks], smooth([c.held_out_loss for c in checks]), strict=True))
    near = {step: losses[min(losses, key=lambda at: (abs(at - step), at))] for step in usable}
    close = [step for step in usable if near[step] <= min(near.values()) * 1.01]
    drawn = {step: statistics.fmean(values.values()) for step, values in scores if values}
    scored = [step for step in close if step in drawn]
    if scored:
        return max(scored, key=lambda step: (drawn[step], step))
    return max(close)


def _gain_evidence(check: Checked) -> list[str]:
    gain, error = check.gain_share, check.share_error
    trained = "" if check.training_share is None else f" On training pairs: {check.training_share:z.1%}."
    return [
        f"Control gain: with the control image of another pair the loss is {gain:z.1%} (± {error:.1%}) higher.{trained}"
    ]


def _loss_evidence(checks: Sequence[Checked]) -> list[str]:
    first, last = checks[0], checks[-1]
    change = last.held_out_loss / first.held_out_loss - 1
    trained = last.training_loss / first.training_loss - 1
    return [
        f"Since the start, the held-out loss changed by {change:+z.1%}, the loss on training pairs by {trained:+z.1%}."
    ]


def _weak_adherence(
    since: int, scores: Sequence[tuple[int, dict[str, float]]], figures: Sequence[tuple[int, dict[str, float]]]
) -> str:
    """Says so if the newest preview images since ``since`` have an adherence below USABLE. Empty otherwise."""
    drawn = [(step, values["obeys"]) for step, values in scores if step >= since and "obeys" in values]
    if not drawn or drawn[-1][1] >= USABLE:
        return ""
    step, value = drawn[-1]
    likely = dict(figures).get(step, {})
    interval = f" ({likely['obeys_low']:.2f} to {likely['obeys_high']:.2f})" if "obeys_low" in likely else ""
    return (
        f"Not usable yet: the adherence of the images of step {step:,} is {value:.2f}{interval}; from {USABLE} a net "
        "is usable."
    )


def _score_evidence(scores: Sequence[tuple[int, dict[str, float]]]) -> list[str]:
    name = next((n for n in ("obeys", "adherence") if any(n in values for _, values in scores)), "")
    drawn = [(step, values[name]) for step, values in scores if name in values]
    if len(drawn) < 2:
        return []
    return [f"Adherence of the images: {drawn[-1][1]:.2f}, after {drawn[0][1]:.2f} at step {drawn[0][0]:,}."]
