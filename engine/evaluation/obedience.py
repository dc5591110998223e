"""How far a net obeys its maps, as one number for every condition type: 0 as if it saw none, 1 as well as can be.

A = (m - m_none) / (m_ref - m_none). m: the measure of the drawn image against its own map. m_none: against other
samples' maps, which is what a net that ignores its map would get. m_ref: of the true image after the VAE's round
trip, the best that this base can show. All three are means over the pairs; the interval is a bootstrap over them
(Efron 1979, percentiles).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.conditions import registry, strengths, weights
from engine.data.dataset import Dataset
from engine.evaluation.likeness import likeness
from engine.evaluation.pairs import Pair

ADHERENCE, LIKENESS = "adherence", "likeness"
RESAMPLES = 1000
LEAST_SPAN = 0.05
"""m_ref - m_none below this says nothing: the true image does not follow its map better than any other."""
OTHERS, OTHERS_OF_MODELS = 3, 1
"""Other samples' maps that an image is held against; each costs one more pass of the extractor's model."""


@dataclass(frozen=True)
class Yardstick:
    """The measure that a dataset allows, higher is better, 1 is perfect."""

    name: str
    """ADHERENCE: the map made anew from the drawn image. LIKENESS: the stand-in, for maps that cannot be made."""
    score: Callable[[Pair, np.ndarray], float]
    others: int = OTHERS


def yardstick(dataset: Dataset) -> Yardstick:
    """The condition type's own metric, or the stand-in where there is none or its weights are not here."""
    spec = dataset.condition
    condition = registry.get(spec.type) if spec else None
    metric = condition.scorer if condition else None
    if spec is None or condition is None or metric is None or weights.missing(condition, spec.parameters):
        return Yardstick(LIKENESS, lambda pair, drawn: likeness(pair.original, drawn))

    def score(pair: Pair, drawn: np.ndarray) -> float:
        parameters = strengths.drawn(condition, spec.parameters, spec.varied, pair.sample.key)
        return float(metric(pair.wanted, drawn, **parameters))

    return Yardstick(ADHERENCE, score, OTHERS_OF_MODELS if condition.models else OTHERS)


@dataclass(frozen=True)
class Measured:
    """One drawn image against its own map, against others', and what its true image reaches."""

    own: float
    other: float
    best: float


@dataclass(frozen=True)
class Obedience:
    """A with its 95 % interval."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def words(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def measure(by: Yardstick, pairs: Sequence[Pair], drawn: Sequence[np.ndarray], best: Sequence[float]) -> list[Measured]:
    """Each image against its own map and the next ones' of the list. ``best``: m_ref of each pair."""
    found = []
    count = len(pairs)
    for number, (pair, image) in enumerate(zip(pairs, drawn, strict=True)):
        apart = [pairs[(number + step) % count] for step in range(1, min(by.others, count - 1) + 1)]
        other = float(np.mean([by.score(one, image) for one in apart])) if apart else 0.0
        found.append(Measured(by.score(pair, image), other, best[number]))
    return found


def obedience(rows: Sequence[Measured], seed: int = 0) -> Obedience | None:
    """A over these images; None for fewer than two, or where even the true images do not follow their maps."""
    if len(rows) < 2:
        return None
    table = _table(rows)
    value = _share(table.mean(axis=0)[None])[0]
    if not np.isfinite(value):
        return None
    drawn = _share(_resampled(table, seed))
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Obedience(float(value), float(low), float(high), len(rows))


def compare(first: Sequence[Measured], second: Sequence[Measured], seed: int = 0) -> Obedience | None:
    """A of the second net minus A of the first, over the same pairs in the same order, with its interval.

    Paired: both are resampled alike, so that what makes a pair hard for either of them cancels out.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} images cannot be compared one by one")
    if len(first) < 2:
        return None
    tables = _table(first), _table(second)
    before, after = (_share(table.mean(axis=0)[None])[0] for table in tables)
    if not np.isfinite(after - before):
        return None
    gaps = _share(_resampled(tables[1], seed)) - _share(_resampled(tables[0], seed))
    low, high = np.nanpercentile(gaps, (2.5, 97.5))
    return Obedience(float(after - before), float(low), float(high), len(first))


def _table(rows: Sequence[Measured]) -> np.ndarray:
    return np.array([(row.own, row.other, row.best) for row in rows], np.float64)


def _resampled(table: np.ndarray, seed: int) -> np.ndarray:
    """Means of RESAMPLES draws with replacement, (RESAMPLES, 3); the same seed and count draw the same rows."""
    rows = np.random.default_rng([seed, len(table)]).integers(0, len(table), (RESAMPLES, len(table)))
    return table[rows].mean(axis=1)


def _share(means: np.ndarray) -> np.ndarray:
    """(own - other) / (best - other) of each row; NaN where the span says nothing."""
    own, other, best = means.T
    span = np.where(best - other < LEAST_SPAN, np.nan, best - other)
    return (own - other) / span
