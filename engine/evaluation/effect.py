"""The control-effect meter: the same seed drawn with the right map, with a blank one, and with another pair's map.

A net that follows its control image draws three different images, of which only the first fits the right map. A net
that ignores it draws the same image three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.evaluation import colour
from engine.evaluation.adherence import Metric
from engine.evaluation.pairs import ImageRequest, Pair

RIGHT, BLANK, SWAPPED = "right", "blank", "swapped"


@dataclass(frozen=True)
class Effect:
    """Means over the pairs."""

    scores: dict[str, float]
    """For RIGHT, BLANK and SWAPPED: the score of the images drawn with that map, all against the right map."""
    moved: float
    """Colour distance (delta E 1976) between the images with the right map and with another's. 0: no effect."""
    moved_blank: float
    """Colour distance between the images with the right map and with a blank one."""
    pairs: int

    @property
    def value(self) -> float:
        """How much better the image with the right map fits it than the image with another map. 0: no effect."""
        return self.scores[RIGHT] - self.scores[SWAPPED]

    def as_dict(self) -> dict[str, Any]:
        """The fields and ``value``, for a report."""
        return {
            "value": self.value,
            "scores": self.scores,
            "moved": self.moved,
            "moved_blank": self.moved_blank,
            "pairs": self.pairs,
        }


def wrong_map_requests(pairs: Sequence[Pair], seed: int, strength: float) -> list[ImageRequest]:
    """Requests for the comparison images: each pair with a blank map, then each with another pair's map."""
    blank = [_with(pair, np.zeros_like(pair.wanted), seed + n, strength) for n, pair in enumerate(pairs)]
    swapped = [_with(pair, other_map(pairs, n), seed + n, strength) for n, pair in enumerate(pairs)]
    return [*blank, *swapped]


def other_map(pairs: Sequence[Pair], number: int) -> np.ndarray:
    """The map of the next pair of the same size. If there is none, the pair's own map upside down."""
    mine = pairs[number].wanted
    for step in range(1, len(pairs)):
        other = pairs[(number + step) % len(pairs)].wanted
        if other.shape == mine.shape:
            return other
    return np.ascontiguousarray(mine[::-1, ::-1])


def _with(pair: Pair, map: np.ndarray, seed: int, strength: float) -> ImageRequest:
    return ImageRequest(map, pair.sample.caption, seed, strength)


def measure_images(
    metric: Metric,
    pairs: Sequence[Pair],
    right: Sequence[np.ndarray],
    blank: Sequence[np.ndarray],
    swapped: Sequence[np.ndarray],
) -> Effect:
    """The effect shown by images that were drawn from the same seeds."""
    drawn = {RIGHT: right, BLANK: blank, SWAPPED: swapped}
    scores = {
        name: float(np.mean([metric.score(pair, image) for pair, image in zip(pairs, images, strict=True)]))
        for name, images in drawn.items()
    }
    moved = [colour.difference(a, b) for a, b in zip(right, swapped, strict=True)]
    moved_blank = [colour.difference(a, b) for a, b in zip(right, blank, strict=True)]
    return Effect(scores, float(np.mean(moved)), float(np.mean(moved_blank)), len(pairs))
