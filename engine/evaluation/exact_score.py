"""The exact score of the generated sets, offered to the evaluation: scenes.json says what each image should show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.demo.generated import SCENES, load_scenes
from engine.demo.score import score_disc

Scorer = Callable[[Sample, np.ndarray, np.ndarray], dict[str, float]]


def exact_scorer(dataset: Dataset) -> Scorer | None:
    """``iou`` of the shape's place, 0 to 1, and ``colours`` (1 where both are right); None for other datasets."""
    if not (dataset.source / SCENES).is_file():
        return None
    scenes = load_scenes(dataset.source)

    def measure(sample: Sample, _wanted: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
        if sample.key not in scenes:
            return {}
        read = score_disc(drawn, scenes[sample.key])
        return {"iou": read.iou, "colours": float(read.colours_right)}

    return measure
