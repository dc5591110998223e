"""What the figures of a run amount to: one sentence, its evidence, the best checkpoint. The rules: docs/verdict.md.

Pure functions over what the run has recorded; nothing is loaded, nothing is remembered.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import RunConfig
from engine.evaluation.drifting import drift_words, drifting_since
from engine.evaluation.turning import broken_since, flat_since, overfitting_since, smooth
from engine.jobs.events import Checked

Kind = Literal["too_early", "not_listening", "ignored", "broken", "improving", "flat", "overfitting", "drifting"]

SIGNS_OF_LISTENING = 2.0
"""Standard errors by which the control gain must exceed zero."""
LEAST_GAIN = 0.05
"""Share of the loss that the gain must reach."""
BLANK = 0.002
"""Mean difference of two maps, 0..1, below which they are taken to be all alike."""
DIM = 0.01
"""The same, above which maps are taken to use their whole range: below, they are nearly black or nearly alike."""
LOW_RATE, FEW_PAIRS = 2e-6, 200
FAULTS = {
    "map_blank": "empty", "map_inverted": "inverted", "map_turned": "mirrored or rotated", "map_shifted": "shifted",
    "map_repeated": "the map of several pictures",
}  # fmt: skip
"""The doctor's findings that can make a net ignore its maps, and what such a map is."""


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of the run beside its figures."""

    total_steps: int
    learning_rate: float
    listens_by: int
    """Pictures after which a net that does not listen is said to ignore its maps."""
    training_pairs: int = 0
    """0: not known."""
    found: Mapping[str, int] | None = None
    """What the doctor has found in the set, by the finding's name; None: it has not been asked."""


def facts_of(config: RunConfig, training_pairs: int = 0, found: Mapping[str, int] | None = None) -> Facts:
    return Facts(config.train.steps, config.optim.learning_rate, config.validation.listens_by, training_pairs, found)


@dataclass(frozen=True)
class Cause:
    """Why a net may ignore its maps, and where to look: "doctor", "settings", or nowhere."""

    words: str
    look: Literal["", "doctor", "settings"] = ""


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    sentence: str
    evidence: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    """Where the maps are ignored: what to look at, likeliest first."""
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
        scores: (step, mean scores) of the pictures, for the evidence and between checkpoints of equal loss.
        checkpoints: steps of those on disk.
        figures: (step, saturation and contrast of the pictures as ratios to the true ones), the first untrained.
    """
    if not checks:
        return Verdict("too_early", "Nothing has been measured yet.")
    since, broke = convergence(checks), broken_since(checks)
    if broke is not None:
        return _broken(checks, facts, broke, [step for step in checkpoints if step < broke])
    best = best_checkpoint(checks, scores, checkpoints, since)
    if since is None:
        return _deaf(checks, facts, best)
    evidence = [*_gain_words(checks[-1]), *_loss_words(checks), *_score_words(scores)]
    listening = [check for check in checks if check.step >= since]
    turned = overfitting_since(listening)
    if turned is not None:
        words = f"Overfitting since step {turned:,}: it gets better on its own pictures and worse on others."
        return _closed("overfitting", words, evidence, since, turned, best)
    drifts = drifting_since(figures)
    if drifts is not None and drifts >= since:
        words = f"Colours drift since step {drifts:,}: {drift_words(figures)}. An earlier checkpoint may look better."
        return _closed("drifting", words, evidence, since, drifts, best)
    still = flat_since(listening)
    if still is not None:
        words = f"Flat since step {still:,}: it listens, but has not improved since. Consider stopping."
        return _closed("flat", words, evidence, since, still, best)
    began = next(check for check in checks if check.step >= since)
    words = f"It listens since step {since:,} ({began.images_seen:,} pictures). Usable, still improving."
    return _closed("improving", words, evidence, since, None, best)


def _closed(
    kind: Kind, words: str, evidence: Sequence[str], listens_since: int, since: int | None, best: int | None
) -> Verdict:
    named = f" Best checkpoint so far: step {best:,}." if best is not None else ""
    return Verdict(kind, words + named, tuple(evidence), (), listens_since, since, best)


def _broken(checks: Sequence[Checked], facts: Facts, broke: int, sound: Sequence[int]) -> Verdict:
    times = checks[-1].held_out_loss / checks[0].held_out_loss
    words = f"The weights broke by step {broke:,}: the loss is {times:,.0f} times that of an untrained net."
    back = f" Go back to the checkpoint of step {max(sound):,}." if sound else ""
    causes = [
        Cause(f"The learning rate ({facts.learning_rate:g}) is too large for this net: a third of it.", "settings")
    ]
    evidence = (*_gain_words(checks[-1]), *_loss_words(checks))
    return Verdict("broken", words + back, evidence, (*causes, *_faults(facts)), None, broke, max(sound, default=None))


def _deaf(checks: Sequence[Checked], facts: Facts, best: int | None) -> Verdict:
    last = checks[-1]
    evidence = tuple(_gain_words(last))
    if last.map_difference < BLANK:
        causes = [Cause("The maps are all alike or blank: there is nothing to listen to.", "doctor")]
        if last.map_difference:
            causes.append(_dim(last))
        words = "The condition is ignored: the maps are blank."
        return Verdict("ignored", words, evidence, (*causes, *_faults(facts)), best=best)
    if listens(last):
        words = f"It may have begun to listen at step {last.step:,}; the next check will tell."
        return Verdict("not_listening", words, evidence, best=best)
    if last.images_seen < facts.listens_by:
        words = (
            f"Not listening yet, which is normal after {last.images_seen:,} pictures: it begins suddenly, "
            f"as a rule before {facts.listens_by:,}."
        )
        if last.step >= facts.total_steps:
            words = (
                f"Not listening at the end of the run. {last.images_seen:,} pictures are often too few; "
                f"plan for up to {facts.listens_by:,}."
            )
        return Verdict("not_listening", words, evidence, best=best)
    words = f"The condition is ignored: after {last.images_seen:,} pictures the net does not look at its map."
    return Verdict("ignored", words, evidence, tuple(_causes(last, facts)), best=best)


def _causes(last: Checked, facts: Facts) -> list[Cause]:
    """What the run itself shows first, then what is usual."""
    causes = []
    if last.map_difference < DIM:
        causes.append(_dim(last))
    if facts.learning_rate < LOW_RATE:
        words = f"The learning rate ({facts.learning_rate:g}) is very small; 1e-5 is usual."
        causes.append(Cause(words, "settings"))
    causes += _faults(facts)
    if 0 < facts.training_pairs < FEW_PAIRS:
        causes.append(Cause(f"{facts.training_pairs:,} pairs are few; some thousand are usual."))
    if facts.found is None:
        causes.append(Cause("Many maps may be blank, inverted, or belong to other pictures: check the set.", "doctor"))
    if facts.learning_rate >= LOW_RATE:
        words = "The learning rate is too small for this net, or so large that the weights broke."
        causes.append(Cause(words, "settings"))
    return causes


def _dim(last: Checked) -> Cause:
    words = f"The maps differ by {last.map_difference:.2%} of full range: they may hold 0 to 1 in place of 0 to 255."
    return Cause(words, "doctor")


def _faults(facts: Facts) -> list[Cause]:
    """What the doctor has found, most of it first."""
    counted = [(count, words) for name, words in FAULTS.items() if (count := (facts.found or {}).get(name, 0))]
    return [
        Cause(f"The doctor found {count:,} maps that are {words}.", "doctor")
        for count, words in sorted(counted, reverse=True)
    ]


def best_checkpoint(
    checks: Sequence[Checked],
    scores: Sequence[tuple[int, dict[str, float]]],
    checkpoints: Sequence[int],
    since: int | None,
) -> int | None:
    """The checkpoint with the lowest held-out loss nearby, of those that listen.

    Where losses are within one percent of the lowest, the higher score of the pictures decides, then the later step.
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
    return [f"With another picture's map it does {share:.1%} worse (± {error:.1%}): the control gain.{trained}"]


def _loss_words(checks: Sequence[Checked]) -> list[str]:
    first, last = checks[0], checks[-1]
    change = last.held_out_loss / first.held_out_loss - 1
    trained = last.training_loss / first.training_loss - 1
    return [f"Held-out loss {change:+.1%} since the start; the same on training pairs {trained:+.1%}."]


def _score_words(scores: Sequence[tuple[int, dict[str, float]]]) -> list[str]:
    name = next((n for n in ("obeys", "adherence") if any(n in values for _, values in scores)), "")
    drawn = [(step, values[name]) for step, values in scores if name in values]
    if len(drawn) < 2:
        return []
    return [f"Pictures obey their map by {drawn[-1][1]:.2f}; at step {drawn[0][0]:,} it was {drawn[0][1]:.2f}."]
