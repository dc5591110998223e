"""Which pairs are held out of a training: a few that differ much from one another, so that they stand for the set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.data.dataset import Dataset
from engine.data.samples import Sample, Split, by_hash
from engine.disk.images import load_array
from engine.errors import UserError
from engine.jobs.control import CancelToken

POOL = 4
"""Candidates for each pair that is wanted: a draw from the whole set, so that odd images do not make the choice."""
GRID = 8
SMALL = 64  # pixels; JPEGs are read at about this size


def choose(dataset: Dataset, count: int, seed: int = 0, token: CancelToken | None = None) -> list[str]:
    """Keys of ``count`` pairs (at most half of all), the most typical first, each next one farthest from those before.

    Drawn by a hash of seed and key like ``Dataset.held_out``, ``POOL`` times as many, then chosen by farthest points
    (Gonzalez 1985) over coarse colours of the image and coarse brightness of its map. Images that cannot be read
    are not chosen. Reads ``POOL * count`` images: milliseconds each.
    """
    usable = dataset.samples(ready=dataset.condition is not None)
    ranked = by_hash(usable, seed)
    wanted = min(count, len(usable) // 2)
    pool, features = [], []
    for sample in ranked[: wanted * POOL]:
        if token:
            token.raise_if_cancelled()
        try:
            features.append(describe(dataset, sample))
        except (UserError, OSError):
            continue  # preparing the training names it
        pool.append(sample.key)
    if len(pool) < wanted:
        return [sample.key for sample in ranked[:wanted]]
    return [pool[row] for row in farthest(np.array(features), wanted)]


def describe(dataset: Dataset, sample: Sample) -> np.ndarray:
    """Coarse colours of the image and brightness of its map, each part of about the same weight."""
    image = _grid(load_array(sample.image, SMALL))
    parts = [image.ravel()]
    if dataset.condition is not None:
        shown = _grid(load_array(dataset.condition_path(sample), SMALL)).mean(axis=2)
        parts.append(np.sqrt(3) * shown.ravel())
    return np.concatenate(parts)


def _grid(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of GRID x GRID cells, 0..1."""
    import cv2

    return cv2.resize(pixels, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def farthest(points: np.ndarray, count: int) -> list[int]:
    """Rows of (N, D): first the nearest to the mean, then each the farthest from all chosen ones; ties: the earlier."""
    if count <= 0:
        return []
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen] = -1
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def split(dataset: Dataset, count: int, keys: Sequence[str] | None) -> Split:
    """The split of a run: by the keys that it began with; by ``Dataset.held_out`` for runs that have none noted.

    Keys whose images are gone are passed over; held-out samples come in the order of ``keys``.
    """
    if keys:
        usable = dataset.samples(ready=dataset.condition is not None)
        by_key = {sample.key: sample for sample in usable}
        held_out = [by_key[key] for key in keys if key in by_key]
        if held_out:
            apart = set(keys)
            return Split([sample for sample in usable if sample.key not in apart], held_out)
    return dataset.held_out(count, seed=0)
