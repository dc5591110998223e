"""The control-effect meter: the same seed with the right map, a blank one and another pair's, side by side.

A net that obeys draws three different images, and only the first fits its map. One that ignores its map draws three
times the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.evaluation import colour
from engine.evaluation.obedience import Yardstick
from engine.evaluation.pairs import Pair, Wanted

RIGHT, BLANK, SWAPPED = "right", "blank", "swapped"


@dataclass(frozen=True)
class Effect:
    """Means over the pairs."""

    scores: dict[str, float]
    """RIGHT, BLANK, SWAPPED -> the measure of the images drawn so, all against the right map."""
    moved: float
    """Colour distance (delta E 1976) of the image with the right map from that with another: 0, no effect."""
    moved_blank: float
    """The same from the image with a blank map."""
    pairs: int

    @property
    def value(self) -> float:
        """How much better the right map is followed with it than with another: 0, the map has no effect."""
        return self.scores[RIGHT] - self.scores[SWAPPED]

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value, "scores": self.scores, "moved": self.moved, "moved_blank": self.moved_blank,
            "pairs": self.pairs,
        }  # fmt: skip


def variants(pairs: Sequence[Pair], seed: int, strength: float) -> list[Wanted]:
    """What has to be drawn beside the ordinary images: each pair with a blank map, then each with the next one's.

    A pair whose neighbour has another size, or has none, gets its own map upside down.
    """
    blank = [_with(pair, np.zeros_like(pair.wanted), seed + n, strength) for n, pair in enumerate(pairs)]
    swapped = [_with(pair, other_map(pairs, n), seed + n, strength) for n, pair in enumerate(pairs)]
    return [*blank, *swapped]


def other_map(pairs: Sequence[Pair], number: int) -> np.ndarray:
    """The next map of the same size, or the pair's own upside down."""
    mine = pairs[number].wanted
    for step in range(1, len(pairs)):
        other = pairs[(number + step) % len(pairs)].wanted
        if other.shape == mine.shape:
            return other
    return np.ascontiguousarray(mine[::-1, ::-1])


def _with(pair: Pair, map: np.ndarray, seed: int, strength: float) -> Wanted:
    return Wanted(map, pair.sample.caption, seed, strength)


def effect(
    by: Yardstick,
    pairs: Sequence[Pair],
    right: Sequence[np.ndarray],
    blank: Sequence[np.ndarray],
    swapped: Sequence[np.ndarray],
) -> Effect:
    """The meter's number, from images of the same seeds."""
    drawn = {RIGHT: right, BLANK: blank, SWAPPED: swapped}
    scores = {
        name: float(np.mean([by.score(pair, image) for pair, image in zip(pairs, images, strict=True)]))
        for name, images in drawn.items()
    }
    moved = [colour.difference(a, b) for a, b in zip(right, swapped, strict=True)]
    emptied = [colour.difference(a, b) for a, b in zip(right, blank, strict=True)]
    return Effect(scores, float(np.mean(moved)), float(np.mean(emptied)), len(pairs))
