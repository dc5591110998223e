"""Does the image follow its condition map? Scores of one image, by every measure that its dataset allows.

To add a measure: a function that looks at a dataset and returns a Scorer, or None where it does not apply, and a line
in MEASURES.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from engine.conditions import registry, strengths, weights
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.evaluation.exact_score import exact_scorer

Scorer = Callable[[Sample, np.ndarray, np.ndarray], dict[str, float]]
"""scorer(sample, map asked for, image drawn), both uint8 RGB (h, w, 3) -> {name: score}, higher is better."""


def own_metric(dataset: Dataset) -> Scorer | None:
    """The condition type's own metric: makes the map anew from the drawn image and compares the two."""
    spec = dataset.condition
    condition = registry.get(spec.type) if spec else None
    metric = condition.scorer if condition else None
    if spec is None or condition is None or metric is None:
        return None
    if weights.missing(condition, spec.parameters):
        return None  # scoring is no reason to fetch anything, nor to stop

    def measure(sample: Sample, wanted: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
        parameters = strengths.drawn(condition, spec.parameters, spec.varied, sample.key)
        return {"adherence": float(metric(wanted, drawn, **parameters))}

    return measure


MEASURES: tuple[Callable[[Dataset], Scorer | None], ...] = (
    own_metric,
    exact_scorer,
)


def scorers(dataset: Dataset) -> list[Scorer]:
    """The measures that apply to this dataset."""
    return [scorer for measure in MEASURES if (scorer := measure(dataset)) is not None]


def score(
    measures: Sequence[Scorer], sample: Sample, wanted: np.ndarray, drawn: np.ndarray, suffix: str = ""
) -> dict[str, float]:
    """All scores of one image, their names followed by ``suffix``."""
    scores: dict[str, float] = {}
    for measure in measures:
        scores |= {name + suffix: float(value) for name, value in measure(sample, wanted, drawn).items()}
    return scores


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over the images that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}
