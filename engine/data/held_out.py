"""Chooses the pairs that are held out of training: diverse ones, so that they represent the dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.data.dataset import Dataset
from engine.data.samples import Sample, Split, by_hash
from engine.disk.images import load_array
from engine.errors import UserError
from engine.jobs.control import CancelToken

POOL = 4
"""Number of random candidates per chosen pair, so that outliers of the dataset do not dominate."""
GRID = 8
SMALL = 64  # pixels; approximate size at which JPEGs are read


def choose(dataset: Dataset, count: int, seed: int = 0, token: CancelToken | None = None) -> list[str]:
    """Keys of ``count`` pairs, at most half of all. The most typical one is first, each next one the farthest from it.

    ``POOL * count`` candidates come from the hash of seed and key, like in ``Dataset.held_out``. Farthest-point
    sampling (Gonzalez 1985) chooses among them by coarse colours of the image and coarse brightness of its map. Skips
    images that cannot be read. Each candidate takes milliseconds to read.
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
            continue  # preparing the run reports it
        pool.append(sample.key)
    if len(pool) < wanted:
        return [sample.key for sample in ranked[:wanted]]
    return [pool[row] for row in farthest(np.array(features), wanted)]


def describe(dataset: Dataset, sample: Sample) -> np.ndarray:
    """Features of a pair: coarse colours of the image and brightness of its map, with about equal weights."""
    image = _grid(load_array(sample.image, SMALL, sample.old_ground))
    parts = [image.ravel()]
    if dataset.condition is not None:
        shown = _grid(load_array(dataset.condition_path(sample), SMALL, sample.old_ground)).mean(axis=2)
        parts.append(np.sqrt(3) * shown.ravel())
    return np.concatenate(parts)


def _grid(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of GRID x GRID cells, 0..1."""
    import cv2

    return cv2.resize(pixels, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def farthest(points: np.ndarray, count: int) -> list[int]:
    """Indices of rows of (N, D): the nearest to the mean, then always the farthest from all chosen. Ties: the first."""
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
    """The split of a run by the keys that it was started with. Older runs have none and use ``Dataset.held_out``.

    Skips keys whose images are gone. The held-out samples are in the order of ``keys``.
    """
    if keys:
        usable = dataset.samples(ready=dataset.condition is not None)
        by_key = {sample.key: sample for sample in usable}
        held_out = [by_key[key] for key in keys if key in by_key]
        if held_out:
            excluded = set(keys)
            return Split([sample for sample in usable if sample.key not in excluded], held_out)
    return dataset.held_out(count, seed=0)
