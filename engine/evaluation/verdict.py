"""What the figures of a run amount to: one sentence, its evidence, the best checkpoint. The rules: docs/verdict.md.

Pure functions over what the run has recorded; nothing is loaded, nothing is remembered.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.evaluation.causes import BLANK, Cause, Facts, blank, deaf, few, too_fast, unlike
from engine.evaluation.drifting import drift_words, drifting_since
from engine.evaluation.turning import apart, broken_since, flat_since, overfitting_since, smooth, worse_since
from engine.jobs.events import Checked

Kind = Literal[
    "too_early",
    "not_listening",
    "ignored",
    "broken",
    "worse",
    "listening",
    "improving",
    "flat",
    "overfitting",
    "drifting",
]

SIGNS_OF_LISTENING = 2.0
"""Standard errors by which the control gain must exceed zero."""
LEAST_GAIN = 0.05
"""Share of the loss that the gain must reach."""
USABLE = 0.3
"""How far images have to obey their maps before a net is called usable; see docs/adherence.md."""


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    sentence: str
    evidence: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    """What to look at where something is wrong, likeliest first."""
    listens_since: int | None = None
    """Step at which the net began to listen."""
    since: int | None = None
    """Step since which it is flat, overfits, or drifts."""
    best: int | None = None
    """Step of the checkpoint to use."""


def listens(check: Checked) -> bool:
    """Whether the gain of one check is neither chance nor negligible."""
    return check.gain_share > max(LEAST_GAIN, SIGNS_OF_LISTENING * check.share_error)


def convergence(checks: Sequence[Checked]) -> int | None:
    """Step of the check from which on the net listens: of the last two checks in a row that do so, and all later ones
    but single exceptions; None where it does not."""
    since: int | None = None
    misses = 0
    for check, following in zip(checks, [*checks[1:], None], strict=True):
        if listens(check):
            misses = 0
            if since is None and following is not None and listens(following):
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
        checks: in the order of their steps, the first of an untrained net.
        scores: (step, mean scores) of the images, for the evidence and between checkpoints of equal loss.
        checkpoints: steps of those on disk.
        figures: (step, saturation and contrast of the images as ratios to the true ones, and the likely range of how
            far they obey), the first untrained.
    """
    if not checks:
        return Verdict("too_early", "Nothing has been measured yet.")
    since, broke, worse = convergence(checks), broken_since(checks), worse_since(checks)
    if broke is not None:
        sound = [step for step in checkpoints if step < min(broke, worse or broke)]
        return _too_fast("broken", checks, facts, broke, sound)
    if worse is not None and checks[-1].map_difference >= BLANK:
        return _too_fast("worse", checks, facts, worse, [step for step in checkpoints if step < worse])
    best = best_checkpoint(checks, scores, checkpoints, since)
    drifts = drifting_since(figures)
    drift = f"Colours drift since step {drifts:,}: {drift_words(figures)}." if drifts is not None else ""
    if since is None:
        return _deaf(checks, facts, best, drifts, drift)
    evidence = [*_gain_words(checks[-1]), *_loss_words(checks), *_score_words(scores)]
    listening = [check for check in checks if check.step >= since]
    turned = overfitting_since(listening)
    if turned is None and apart(checks):
        turned = min(listening, key=lambda check: check.held_out_loss).step
    if turned is not None:
        words = f"Overfitting since step {turned:,}: it gets better on its own images and worse on others."
        return _closed("overfitting", words, evidence, since, turned, best, few(facts))
    if drift:
        words = f"{drift} An earlier checkpoint may look better."
        return _closed("drifting", words, evidence, since, drifts, best, unlike(checks, facts))
    still = flat_since(listening)
    if still is not None:
        words = f"Flat since step {still:,}: it listens, but has not improved since. Consider stopping."
        return _closed("flat", words, evidence, since, still, best)
    began = next(check for check in checks if check.step >= since)
    words = f"It listens since step {since:,} ({began.images_seen:,} images)"
    if faint := _faint_words(since, scores, figures):
        return _closed("listening", f"{words} and still improves. {faint}", evidence, since, None, best)
    return _closed("improving", f"{words}. Usable, still improving.", evidence, since, None, best)


def _closed(
    kind: Kind, words: str, evidence: Sequence[str], listens_since: int, since: int | None, best: int | None,
    causes: Sequence[Cause] = (),
) -> Verdict:  # fmt: skip
    named = f" Best checkpoint so far: step {best:,}." if best is not None else ""
    return Verdict(kind, words + named, tuple(evidence), tuple(causes), listens_since, since, best)


def _too_fast(kind: Kind, checks: Sequence[Checked], facts: Facts, since: int, sound: Sequence[int]) -> Verdict:
    """Both losses are above those at the start. ``sound``: checkpoints from before that, the newest is best."""
    times = checks[-1].held_out_loss / checks[0].held_out_loss
    words = f"The weights broke by step {since:,}: the loss is {times:,.0f} times that of an untrained net."
    if kind == "worse":
        words = f"Worse than at its start since step {since:,}: the loss is {times - 1:.0%} above what it was then."
    best = max(sound, default=None)
    back = f" Go back to the checkpoint of step {best:,}." if best else ""
    evidence = (*_gain_words(checks[-1]), *_loss_words(checks))
    return Verdict(kind, words + back, evidence, too_fast(facts), None, since, best)


def _deaf(checks: Sequence[Checked], facts: Facts, best: int | None, drifts: int | None, drift: str) -> Verdict:
    """``drifts``, ``drift``: the step since which colours drift, and that in words."""
    last = checks[-1]
    evidence = (*_gain_words(last), *_loss_words(checks))
    if last.map_difference < BLANK:
        words = "The condition is ignored: the maps are blank."
        return Verdict("ignored", words, evidence, blank(last, facts), best=best)
    if last.images_seen >= facts.listens_by and not listens(last):
        words = f"The condition is ignored: after {last.images_seen:,} images the net does not look at its map."
        told = (*evidence, drift) if drift else evidence
        return Verdict("ignored", words, told, deaf(checks, facts), best=best)
    if drift:
        words = f"{drift} The net does not listen to its map yet."
        return Verdict("drifting", words, evidence, unlike(checks, facts), None, drifts, best)
    words = f"It may have begun to listen at step {last.step:,}; the next check will tell."
    if not listens(last):
        seen = f"after {last.images_seen:,} images" if last.images_seen else "at the start"
        words = f"Not listening yet, which is normal {seen}: it begins suddenly, as a rule before {facts.listens_by:,}."
        if last.step >= facts.total_steps:
            words = (
                f"Not listening at the end of the run. {last.images_seen:,} images are often too few; "
                f"plan for up to {facts.listens_by:,}."
            )
    return Verdict("not_listening", words, evidence, unlike(checks, facts), best=best)


def best_checkpoint(
    checks: Sequence[Checked],
    scores: Sequence[tuple[int, dict[str, float]]],
    checkpoints: Sequence[int],
    since: int | None,
) -> int | None:
    """The checkpoint with the lowest held-out loss nearby, of those that listen.

    Where losses are within one percent of the lowest, the higher score of the images decides, then the later step.
    Before the net listens it is the newest.
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


def _gain_words(check: Checked) -> list[str]:
    share, error = check.gain_share, check.share_error
    trained = "" if check.training_share is None else f" On pairs that it trains on: {check.training_share:.1%}."
    return [f"With another image's map it does {share:.1%} worse (± {error:.1%}): the control gain.{trained}"]


def _loss_words(checks: Sequence[Checked]) -> list[str]:
    first, last = checks[0], checks[-1]
    change = last.held_out_loss / first.held_out_loss - 1
    trained = last.training_loss / first.training_loss - 1
    return [f"Held-out loss {change:+.1%} since the start; the same on training pairs {trained:+.1%}."]


def _faint_words(
    since: int, scores: Sequence[tuple[int, dict[str, float]]], figures: Sequence[tuple[int, dict[str, float]]]
) -> str:
    """Where the newest images since the net listens do not show what its gain says: how far they obey."""
    drawn = [(step, values["obeys"]) for step, values in scores if step >= since and "obeys" in values]
    if not drawn or drawn[-1][1] >= USABLE:
        return ""
    step, value = drawn[-1]
    likely = dict(figures).get(step, {})
    sure = f" ({likely['obeys_low']:.2f} to {likely['obeys_high']:.2f})" if "obeys_low" in likely else ""
    return f"Not usable yet: the images of step {step:,} obey their maps by {value:.2f}{sure}; {USABLE} is usable."


def _score_words(scores: Sequence[tuple[int, dict[str, float]]]) -> list[str]:
    name = next((n for n in ("obeys", "adherence") if any(n in values for _, values in scores)), "")
    drawn = [(step, values[name]) for step, values in scores if name in values]
    if len(drawn) < 2:
        return []
    return [f"Images obey their map by {drawn[-1][1]:.2f}; at step {drawn[0][0]:,} it was {drawn[0][1]:.2f}."]
