"""What the Conditions tab shows of a type before all maps are made: one image, or a sheet of random ones."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import variation
from engine.conditions.coverage import Coverage, coverage
from engine.conditions.declaration import ConditionType
from engine.data.dataset import Dataset
from engine.data.make_maps import read_image
from engine.data.samples import Sample
from engine.disk.images import load_rgb
from engine.errors import UserError

SHEET = 12


@dataclass(frozen=True)
class Shown:
    """An image beside its map, both RGB uint8 (h, w, 3) of one size."""

    name: str
    image: np.ndarray
    map: np.ndarray
    measured: Coverage
    values: dict[str, Any]
    """The parameters that were used: with several strengths the image's own."""


def preview(condition: ConditionType, image: np.ndarray, values: Mapping[str, Any], name: str = "") -> Shown:
    """The map of one image, RGB uint8 (h, w, 3). Raises UserError where weights or a program are missing."""
    made = condition.extractor(image, **values)
    return Shown(name, image, made, coverage(made), dict(values))


def of_file(condition: ConditionType, path: Path, values: Mapping[str, Any], side: int | None) -> Shown:
    """The map of any image file, at the size at which all maps will be made."""
    return preview(condition, read_image(path, side), values, path.name)


def of_sample(
    dataset: Dataset,
    sample: Sample,
    condition: ConditionType,
    values: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
) -> Shown:
    """The map that "make all" would make of a sample, or the one that came with it. Raises UserError for neither."""
    if condition.extract is None:
        if sample.condition is None:
            raise UserError(
                "This dataset came without maps of its own.",
                "Only images were found in its folder.",
                "Choose a type that makes maps.",
            )
        image = read_image(sample.image, side)
        made = np.asarray(load_rgb(sample.condition).resize(image.shape[1::-1]))
        return Shown(sample.key, image, made, coverage(made), {})
    own = variation.varied(condition, values, varied, sample.key)
    return preview(condition, read_image(sample.image, side), own, sample.key)


def sheet(
    dataset: Dataset,
    condition: ConditionType,
    values: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
    seed: int = 0,
) -> list[Shown]:
    """Twelve images at random (fewer in a small set) with their maps; ones that cannot be read are left out."""
    total = dataset.count()
    found = []
    for place in sorted(random.Random(seed).sample(range(total), min(SHEET, total))):
        for sample in dataset.samples(place, 1):
            try:
                found.append(of_sample(dataset, sample, condition, values, side, varied))
            except UserError:
                if condition.models or condition.program or condition.extract is None:
                    raise  # the type's own trouble, the same for every image
    return found
