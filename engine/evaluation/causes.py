"""Why a net may ignore its control images or get worse than at its start, and where to look (docs/verdict.md).

Pure functions. Where the figures of a run leave several causes possible, all of them are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import RunConfig
from engine.evaluation.verdict_rules import diverging, noise
from engine.jobs.events import Checked
from engine.machine.units import counted

BLANK = 0.002
"""Control images whose mean difference, 0 to 1, is below this value count as all the same."""
DIM = 0.01
"""Control images whose mean difference is below this do not use the full range."""
WHITE = 0.8
"""Control images with a mean brightness above this count as dark on white. Light on black is usual."""
LOW_RATE, FEW_PAIRS, LARGE_OFFSET = 2e-6, 200, 0.2
STEADY = 0.005
"""If the held-out loss usually changes by less than this fraction between two checks, the weights hardly move."""
FAULTS = {
    "map_blank": "empty",
    "map_inverted": "inverted",
    "map_turned": "mirrored or rotated",
    "map_shifted": "shifted",
    "map_repeated": "used for several images",
}
"""Findings of the dataset check that can make a net ignore its control images, and how to describe these."""


@dataclass(frozen=True)
class Facts:
    """Facts about a run, besides its figures, that the rules use."""

    total_steps: int
    learning_rate: float
    follows_by: int
    """A net that does not follow its control images after this many images is said to ignore them."""
    training_pairs: int = 0
    """0: unknown."""
    found: Mapping[str, int] | None = None
    """How often the dataset check made each finding, by the finding's name. None: the dataset was not checked."""
    offset_noise: float = 0.0


def verdict_facts(config: RunConfig, training_pairs: int = 0, found: Mapping[str, int] | None = None) -> Facts:
    """The facts of a run with these settings."""
    return Facts(
        total_steps=config.train.steps,
        learning_rate=config.optim.learning_rate,
        follows_by=config.validation.listens_by,
        training_pairs=training_pairs,
        found=found,
        offset_noise=config.objective.offset_noise,
    )


@dataclass(frozen=True)
class Cause:
    """A possible cause of a problem."""

    text: str
    look: Literal["", "doctor", "settings", "dataset"] = ""
    """Where the user can investigate it."""


def of_blank_maps(last: Checked, facts: Facts) -> tuple[Cause, ...]:
    """Why all control images may be the same."""
    causes = [Cause("The control images are blank or all the same: there is nothing to follow.", "doctor")]
    if last.map_difference:
        causes.append(_dim(last))
    return (*causes, *_faults(facts))


def of_higher_loss(facts: Facts) -> tuple[Cause, ...]:
    """Why both losses may be above those at the start."""
    causes = [
        Cause(
            f"The learning rate ({facts.learning_rate:g}) is too high for this net: resume with a third of it, "
            "from a checkpoint saved before the loss rose (Resume with other settings).",
            "settings",
        )
    ]
    if facts.offset_noise > LARGE_OFFSET:
        text = (
            f"Training uses an offset noise of {facts.offset_noise:g}, but the loss is measured without it; "
            "up to 0.1 is usual."
        )
        causes.insert(0, Cause(text, "settings"))
    return (*causes, *_faults(facts))


def of_diverging_losses(checks: Sequence[Checked], facts: Facts) -> tuple[Cause, ...]:
    """Why the held-out loss may have risen from the start while the training loss fell. Empty if it has not."""
    if not diverging(checks):
        return ()
    if found := of_few_pairs(facts):
        return found
    text = (
        "The net improves on its training images but is worse than at the start on the held-out ones: the "
        "held-out images may differ in colours or subject, for example if you added other images later."
    )
    return (Cause(text, "dataset"),)


def of_ignored_maps(checks: Sequence[Checked], facts: Facts) -> tuple[Cause, ...]:
    """Why a net may ignore its control images: first what the run itself shows, then the usual causes."""
    last, losses = checks[-1], [check.held_out_loss for check in checks]
    moves = noise(losses) if len(losses) > 1 else 1.0  # a single check says nothing about changes
    causes = [*of_diverging_losses(checks, facts)]
    if last.map_difference < DIM:
        causes.append(_dim(last))
    if facts.learning_rate < LOW_RATE:
        text = f"The learning rate ({facts.learning_rate:g}) is very low; 1e-5 is usual."
        causes.append(Cause(text, "settings"))
    elif moves < STEADY:
        text = (
            f"The loss changes by only {moves:.2%} from one check to the next: the learning rate "
            f"({facts.learning_rate:g}) may be too low for this net."
        )
        causes.append(Cause(text, "settings"))
    if last.map_level is not None and last.map_level > WHITE:
        text = (
            f"The control images are nearly white ({last.map_level:.0%}): they may be inverted; "
            "light on black is usual."
        )
        causes.append(Cause(text, "doctor"))
    causes += _faults(facts)
    causes += [cause for cause in of_few_pairs(facts) if cause not in causes]
    if facts.found is None:
        text = "Many control images may be blank, inverted, or belong to other images: check the dataset."
        causes.append(Cause(text, "doctor"))
    if facts.learning_rate >= LOW_RATE and moves >= STEADY:
        text = (
            f"The learning rate ({facts.learning_rate:g}) may not suit this net: try a third of it, and three "
            "times the value."
        )
        causes.append(Cause(text, "settings"))
    return tuple(causes)


def of_few_pairs(facts: Facts) -> tuple[Cause, ...]:
    """Says so if there are few training pairs. Empty otherwise, or if their number is unknown."""
    if not 0 < facts.training_pairs < FEW_PAIRS:
        return ()
    pairs = counted(facts.training_pairs, "training pair is", "training pairs are")
    return (Cause(f"{pairs} not many; several thousand are usual.", "dataset"),)


def _dim(last: Checked) -> Cause:
    text = (
        f"The control images differ by {last.map_difference:.2%} of the full range: their values may range from "
        "0 to 1 instead of 0 to 255."
    )
    return Cause(text, "doctor")


def _faults(facts: Facts) -> list[Cause]:
    """The findings of the dataset check, the most frequent first."""
    found = [(count, text) for name, text in FAULTS.items() if (count := (facts.found or {}).get(name, 0))]
    return [
        Cause(
            f"The dataset check found {counted(count, 'control image that is', 'control images that are')} {text}.",
            "doctor",
        )
        for count, text in sorted(found, reverse=True)
    ]
