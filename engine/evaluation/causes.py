"""Why a net may ignore its map, or do worse than at its start, and where to look. The rules: docs/verdict.md.

Pure functions; what they cannot tell from the figures of a run alone is named as one of several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import RunConfig
from engine.evaluation.turning import apart, noise
from engine.jobs.events import Checked

BLANK = 0.002
"""Mean difference of two maps, 0..1, below which they are taken to be all alike."""
DIM = 0.01
"""The same, above which maps are taken to use their whole range: below, they are nearly black or nearly alike."""
WHITE = 0.8
"""How light maps are on the whole from which they are dark on white; what bases learn well is light on black."""
LOW_RATE, FEW_PAIRS, MUCH_OFFSET = 2e-6, 200, 0.2
STEADY = 0.005
"""Usual change of the held-out loss from one check to the next, below which the weights hardly move."""
FAULTS = {
    "map_blank": "empty", "map_inverted": "inverted", "map_turned": "mirrored or rotated", "map_shifted": "shifted",
    "map_repeated": "the map of several images",
}  # fmt: skip
"""The doctor's findings that can make a net ignore its maps, and what such a map is."""


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of the run beside its figures."""

    total_steps: int
    learning_rate: float
    listens_by: int
    """Images after which a net that does not listen is said to ignore its maps."""
    training_pairs: int = 0
    """0: not known."""
    found: Mapping[str, int] | None = None
    """What the doctor has found in the set, by the finding's name; None: it has not been asked."""
    offset_noise: float = 0.0


def facts_of(config: RunConfig, training_pairs: int = 0, found: Mapping[str, int] | None = None) -> Facts:
    return Facts(
        config.train.steps, config.optim.learning_rate, config.validation.listens_by, training_pairs, found,
        config.objective.offset_noise,
    )  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """Why a net may ignore its maps, and where to look, if anywhere."""

    words: str
    look: Literal["", "doctor", "settings", "dataset"] = ""


def blank(last: Checked, facts: Facts) -> tuple[Cause, ...]:
    """Why maps may be all alike."""
    causes = [Cause("The maps are all alike or blank: there is nothing to listen to.", "doctor")]
    if last.map_difference:
        causes.append(_dim(last))
    return (*causes, *_faults(facts))


def too_fast(facts: Facts) -> tuple[Cause, ...]:
    """Why the loss may be above that of the start."""
    causes = [
        Cause(f"The learning rate ({facts.learning_rate:g}) is too large for this net: a third of it.", "settings")
    ]
    if facts.offset_noise > MUCH_OFFSET:
        words = f"It learns with an offset noise of {facts.offset_noise:g} and is measured without; up to 0.1 is usual."
        causes.insert(0, Cause(words, "settings"))
    return (*causes, *_faults(facts))


def unlike(checks: Sequence[Checked], facts: Facts) -> tuple[Cause, ...]:
    """Why the held-out loss may rise from the start while the training loss falls; nothing where it does not."""
    if not apart(checks):
        return ()
    if found := few(facts):
        return found
    words = "It gets better on what it trains on, and worse than at its start on the held-out images:"
    return (Cause(f"{words} they may differ in colours or kind, as where others were added later.", "dataset"),)


def deaf(checks: Sequence[Checked], facts: Facts) -> tuple[Cause, ...]:
    """Why a net may ignore its maps: what the run itself shows first, then what is usual."""
    last, losses = checks[-1], [check.held_out_loss for check in checks]
    moves = noise(losses) if len(losses) > 1 else 1.0  # a sitting's first check: nothing is known yet
    causes = [*unlike(checks, facts)]
    if last.map_difference < DIM:
        causes.append(_dim(last))
    if facts.learning_rate < LOW_RATE:
        words = f"The learning rate ({facts.learning_rate:g}) is very small; 1e-5 is usual."
        causes.append(Cause(words, "settings"))
    elif moves < STEADY:
        words = f"The loss moves by {moves:.2%} from one check to the next: the learning rate"
        causes.append(Cause(f"{words} ({facts.learning_rate:g}) may be too small for this net.", "settings"))
    if last.map_level is not None and last.map_level > WHITE:
        words = f"The maps are nearly white ({last.map_level:.0%}): they may be inverted; usual is light on black."
        causes.append(Cause(words, "doctor"))
    causes += _faults(facts)
    causes += [cause for cause in few(facts) if cause not in causes]
    if facts.found is None:
        causes.append(Cause("Many maps may be blank, inverted, or belong to other images: check the set.", "doctor"))
    if facts.learning_rate >= LOW_RATE and moves >= STEADY:
        words = (
            f"The learning rate ({facts.learning_rate:g}) does not suit this net: try a third of it, and three times."
        )
        causes.append(Cause(words, "settings"))
    return tuple(causes)


def _dim(last: Checked) -> Cause:
    words = f"The maps differ by {last.map_difference:.2%} of full range: they may hold 0 to 1 in place of 0 to 255."
    return Cause(words, "doctor")


def few(facts: Facts) -> tuple[Cause, ...]:
    if not 0 < facts.training_pairs < FEW_PAIRS:
        return ()
    return (Cause(f"{facts.training_pairs:,} pairs are few; some thousand are usual.", "dataset"),)


def _faults(facts: Facts) -> list[Cause]:
    """What the doctor has found, most of it first."""
    counted = [(count, words) for name, words in FAULTS.items() if (count := (facts.found or {}).get(name, 0))]
    return [
        Cause(f"The doctor found {count:,} maps that are {words}.", "doctor")
        for count, words in sorted(counted, reverse=True)
    ]
