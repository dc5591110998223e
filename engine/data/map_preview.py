"""Previews of a condition type before all maps are made: of one image, or of a sheet of random ones."""

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
from engine.disk.images import load_map
from engine.errors import UserError
from engine.jobs.control import CancelToken

SHEET = 12


@dataclass(frozen=True)
class MapPreview:
    """An image and its map, both RGB uint8 (h, w, 3) of one size."""

    name: str
    image: np.ndarray
    map: np.ndarray
    measured: Coverage
    values: dict[str, Any]
    """The parameters that were used. With several strengths, they are the image's own."""


def preview(
    condition: ConditionType,
    image: np.ndarray,
    values: Mapping[str, Any],
    name: str = "",
    token: CancelToken | None = None,
) -> MapPreview:
    """Makes the map of one image, RGB uint8 (h, w, 3).

    Raises UserError if weights or a program are missing; Cancelled, as do the functions below, if the token was.
    """
    made = condition.map_of(image, values, token)
    return MapPreview(name, image, made, coverage(made), dict(values))


def of_file(
    condition: ConditionType,
    path: Path,
    values: Mapping[str, Any],
    side: int | None,
    token: CancelToken | None = None,
) -> MapPreview:
    """Makes the map of an image file, at the size of the dataset's maps."""
    return preview(condition, read_image(path, side), values, path.name, token)


def of_sample(
    dataset: Dataset,
    sample: Sample,
    condition: ConditionType,
    values: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
    token: CancelToken | None = None,
) -> MapPreview:
    """Makes the same map of a sample as ``make_all``, or reads the one that came with it. UserError if it has none."""
    if condition.extract is None:
        if sample.condition is None:
            raise UserError(
                "This dataset came without maps.",
                "Only images were found in its folder.",
                "Choose a type that makes maps.",
            )
        image = read_image(sample.image, side, sample.old_ground)
        made = np.asarray(load_map(sample.condition, sample.old_ground).resize(image.shape[1::-1]))
        return MapPreview(sample.key, image, made, coverage(made), {})
    own = variation.varied(condition, values, varied, sample.key)
    return preview(condition, read_image(sample.image, side, sample.old_ground), own, sample.key, token)


def sheet(
    dataset: Dataset,
    condition: ConditionType,
    values: Mapping[str, Any],
    side: int | None = None,
    varied: int | None = None,
    seed: int = 0,
    token: CancelToken | None = None,
) -> list[MapPreview]:
    """Twelve random images, or fewer in a small dataset, with their maps. Skips images that cannot be read."""
    total = dataset.count()
    found = []
    for place in sorted(random.Random(seed).sample(range(total), min(SHEET, total))):
        for sample in dataset.samples(place, 1):
            try:
                if token:
                    token.raise_if_cancelled()
                found.append(of_sample(dataset, sample, condition, values, side, varied, token))
            except UserError:
                if condition.models or condition.program or condition.extract is None:
                    raise  # a problem of the type, which would occur for every image
    return found
