"""Adherence: how well a drawn image follows its control image.

Raw scores of one image come from every scorer that its dataset supports (``SCORERS``; to add one, write a function that
returns a ``Scorer`` or None for a dataset, and list it there). From the raw scores of several images, ``normalize``
computes one number that means the same for every condition type:

    A = (m - m_none) / (m_ref - m_none)

m is the score of the drawn image against its own map. m_none is its score against the maps of other samples, which is
what a net that ignores its map would get. m_ref is the score of the original image after a round trip through the VAE,
the best that this base model can reach. All three are means over the pairs. 0 means that the map has no effect, 1 that
no drawing with this base could follow it better. The interval is a bootstrap over the pairs (Efron 1979, percentiles).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.conditions import registry, variation, weights
from engine.conditions.metrics import correlation, fit
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.demo.generated import SCENES, load_scenes
from engine.demo.score import score_disc
from engine.evaluation.pairs import Pair

Scorer = Callable[[Sample, np.ndarray, np.ndarray], dict[str, float]]
"""scorer(sample, its map, drawn image), both uint8 RGB (h, w, 3) -> {name: score}. Higher is better."""

# Keys in run folders: scores.json, report.json, metrics.jsonl.
ADHERENCE, CONTOURS = "adherence", "likeness"

RESAMPLES = 1000
MIN_SPAN = 0.05
"""Least m_ref - m_none. Below it, the original image follows its map hardly better than any other image does."""
OTHER_MAPS, OTHER_MAPS_WITH_MODEL = 3, 1
"""Number of other samples' maps for m_none. Each one costs another run of the extractor, and of its model if any."""
CONTOUR_BLUR = 1 / 64
"""Standard deviation of the blur of contours, as a fraction of the shorter side: how far apart still counts as near."""


# -- raw scores --------------------------------------------------------------------------------------------------------


def condition_scorer(dataset: Dataset) -> Scorer | None:
    """The metric of the condition type, which extracts the map of the drawn image and compares it with the given one.

    None if the type has no metric, or if its weights are missing: scoring never downloads anything.
    """
    spec = dataset.condition
    condition = registry.get(spec.type) if spec else None
    metric = condition.scorer if condition else None
    if spec is None or condition is None or metric is None or weights.missing(condition, spec.parameters):
        return None

    def score(sample: Sample, wanted: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
        parameters = variation.varied(condition, spec.parameters, spec.varied, sample.key)
        return {ADHERENCE: float(metric(wanted, drawn, **parameters))}

    return score


def exact_scorer(dataset: Dataset) -> Scorer | None:
    """The exact score of the demo's generated sets, whose scenes.json says what each image should show.

    ``iou``: overlap of the shape with its true place, 0 to 1. ``colours``: 1 if both colours are right.
    """
    if not (dataset.source / SCENES).is_file():
        return None
    scenes = load_scenes(dataset.source)

    def score(sample: Sample, _wanted: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
        if sample.key not in scenes:
            return {}
        found = score_disc(drawn, scenes[sample.key])
        return {"iou": found.iou, "colours": float(found.colours_right)}

    return score


SCORERS: tuple[Callable[[Dataset], Scorer | None], ...] = (
    condition_scorer,
    exact_scorer,
)


def scorers(dataset: Dataset) -> list[Scorer]:
    """The scorers that a dataset supports."""
    return [scorer for build in SCORERS if (scorer := build(dataset)) is not None]


def score_image(
    scorers: Sequence[Scorer], sample: Sample, wanted: np.ndarray, drawn: np.ndarray, suffix: str = ""
) -> dict[str, float]:
    """All scores of one image. ``suffix`` is appended to their names."""
    scores: dict[str, float] = {}
    for scorer in scorers:
        scores |= {name + suffix: float(value) for name, value in scorer(sample, wanted, drawn).items()}
    return scores


def mean_scores(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each score over the images that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}


# -- one number for every condition type -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """The metric that a dataset supports. Higher is better, 1 is perfect."""

    name: str
    """ADHERENCE: the condition type's own metric. CONTOURS: its replacement for maps that cannot be extracted."""
    score: Callable[[Pair, np.ndarray], float]
    other_maps: int = OTHER_MAPS


def metric_of(dataset: Dataset) -> Metric:
    """The condition type's own metric. Where it has none, or its weights are missing: ``contour_agreement``."""
    scorer = condition_scorer(dataset)
    spec = dataset.condition
    if scorer is None or spec is None:
        return Metric(CONTOURS, lambda pair, drawn: contour_agreement(pair.original, drawn))

    def score(pair: Pair, drawn: np.ndarray) -> float:
        return scorer(pair.sample, pair.wanted, drawn)[ADHERENCE]

    return Metric(ADHERENCE, score, OTHER_MAPS_WITH_MODEL if registry.get(spec.type).models else OTHER_MAPS)


def contour_agreement(original: np.ndarray, drawn: np.ndarray) -> float:
    """Pearson's r of the contours of two images, RGB uint8: 1 if they coincide, about 0 by chance.

    A net that follows its map draws things where the original has them, in whatever colours. This measures less than a
    comparison of maps, and every page that shows it says so.
    """
    return correlation(contours(original), contours(fit(drawn, original.shape[:2])))


def contours(image: np.ndarray) -> np.ndarray:
    """The blurred square root of the colour gradient of RGB uint8 (h, w, 3), as float32 (h, w).

    Each pixel counts by its strongest channel. The root keeps a few strong edges from dominating.
    """
    import cv2

    values = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    across, down = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
    steep = np.sqrt(np.hypot(across, down).max(axis=2))
    return cv2.GaussianBlur(steep, (0, 0), max(1.0, CONTOUR_BLUR * min(image.shape[:2])))


@dataclass(frozen=True)
class PairScores:
    """The three scores of one pair that A is computed from."""

    own: float
    """Of the drawn image against its own map (m)."""
    other: float
    """Of the drawn image against other samples' maps (m_none)."""
    best: float
    """Of the original image after a round trip through the VAE (m_ref)."""


@dataclass(frozen=True)
class Adherence:
    """A with its 95 % interval."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def text(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def score_pairs(
    metric: Metric, pairs: Sequence[Pair], drawn: Sequence[np.ndarray], best: Sequence[float]
) -> list[PairScores]:
    """Scores each image against its own map and those of the next pairs in the list. ``best``: m_ref of each pair."""
    found = []
    count = len(pairs)
    for number, (pair, image) in enumerate(zip(pairs, drawn, strict=True)):
        others = [pairs[(number + step) % count] for step in range(1, min(metric.other_maps, count - 1) + 1)]
        other = float(np.mean([metric.score(one, image) for one in others])) if others else 0.0
        found.append(PairScores(metric.score(pair, image), other, best[number]))
    return found


def normalize(scores: Sequence[PairScores], seed: int = 0) -> Adherence | None:
    """A of these pairs. None for fewer than two, or if even the originals do not follow their own maps."""
    if len(scores) < 2:
        return None
    table = _table(scores)
    value = _ratio(table.mean(axis=0)[None])[0]
    if not np.isfinite(value):
        return None
    low, high = np.nanpercentile(_ratio(_resampled(table, seed)), (2.5, 97.5))
    return Adherence(float(value), float(low), float(high), len(scores))


def compare(first: Sequence[PairScores], second: Sequence[PairScores], seed: int = 0) -> Adherence | None:
    """A of the second net minus A of the first, with its interval. Both lists hold the same pairs in the same order.

    Both are resampled alike (a paired bootstrap), so whatever makes a pair hard for either net cancels out.
    """
    if len(first) != len(second):
        raise ValueError(f"lists of {len(first)} and {len(second)} cannot be compared one by one")
    if len(first) < 2:
        return None
    tables = _table(first), _table(second)
    before, after = (_ratio(table.mean(axis=0)[None])[0] for table in tables)
    if not np.isfinite(after - before):
        return None
    gaps = _ratio(_resampled(tables[1], seed)) - _ratio(_resampled(tables[0], seed))
    low, high = np.nanpercentile(gaps, (2.5, 97.5))
    return Adherence(float(after - before), float(low), float(high), len(first))


def _table(scores: Sequence[PairScores]) -> np.ndarray:
    return np.array([(row.own, row.other, row.best) for row in scores], np.float64)


def _resampled(table: np.ndarray, seed: int) -> np.ndarray:
    """Means of RESAMPLES draws with replacement, (RESAMPLES, 3). The same seed and count draw the same rows."""
    rows = np.random.default_rng([seed, len(table)]).integers(0, len(table), (RESAMPLES, len(table)))
    return table[rows].mean(axis=1)


def _ratio(means: np.ndarray) -> np.ndarray:
    """(own - other) / (best - other) of each row. NaN where the span is too small."""
    own, other, best = means.T
    span = np.where(best - other < MIN_SPAN, np.nan, best - other)
    return (own - other) / span
