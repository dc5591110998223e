"""Has the net memorized images? Finds the training images nearest to drawn ones by perceptual hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.data.dataset import Dataset
from engine.data.doctor.check_store import CheckStore
from engine.data.doctor.measure import perceptual_hash
from engine.data.samples import Sample
from engine.disk.images import load_array
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

NEAR = 6  # of 64 bits; unrelated photographs differ in 32 on average
MOST = 20_000
"""The most training images that are compared, if the dataset check has not already measured them."""
SIDE = 128
PAGE = 500
LOOKING = "Training images compared"


@dataclass(frozen=True)
class Match:
    """A drawn image and the training image that it is nearly equal to."""

    number: int
    key: str
    distance: int


@dataclass(frozen=True)
class SearchResult:
    drawn: list[Match]
    """Drawn images that are nearly equal to a training image."""
    originals: int
    """Number of originals of the same pairs that also are. They show how repetitive the dataset itself is."""
    looked_at: int
    of: int

    @property
    def suspicious(self) -> bool:
        """Whether more drawn images than originals have a near copy among the training images."""
        return len(self.drawn) > self.originals


def search(
    dataset: Dataset,
    trained: Sequence[Sample],
    drawn: Sequence[np.ndarray],
    originals: Sequence[np.ndarray],
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    known: dict[str, int] | None = None,
) -> SearchResult:
    """Compares drawn images and their originals with the training images, a page of these at a time.

    Uses the hashes that the dataset check has stored. A training pair matches its own image, so draw held-out pairs.

    Args:
        known: hashes of training images by key, from an earlier search of the same run; new ones are added.
    """
    mine, theirs = (np.array([_hash(image) for image in images], np.uint64) for images in (drawn, originals))
    best: dict[int, tuple[int, str]] = {}
    copies: set[int] = set()
    looked = 0
    for keys, hashes in _hashes(dataset, trained[:MOST], token, {} if known is None else known):
        for rows, found in ((mine, best), (theirs, None)):
            apart = np.bitwise_count(rows[:, None] ^ hashes[None])
            for number in np.flatnonzero(apart.min(axis=1) <= NEAR):
                place = int(apart[number].argmin())
                if found is None:
                    copies.add(int(number))
                else:
                    this = (int(apart[number, place]), keys[place])
                    found[int(number)] = min(found.get(int(number), this), this)
        looked += len(keys)
        if progress:
            progress(looked, min(len(trained), MOST), LOOKING)
    matches = [Match(number, key, distance) for number, (distance, key) in sorted(best.items())]
    return SearchResult(matches, len(copies), looked, len(trained))


def _hashes(
    dataset: Dataset, samples: Sequence[Sample], token: CancelToken | None, known: dict[str, int]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """(keys, uint64 hashes), a page at a time. Skips images that cannot be read."""
    store = CheckStore(dataset.folder)
    for first in range(0, len(samples), PAGE):
        page = samples[first : first + PAGE]
        wanted = [sample.key for sample in page if sample.key not in known]
        measured = store.measured(wanted) if store.exists and wanted else {}
        keys, hashes = [], []
        for sample in page:
            if token:
                token.raise_if_cancelled()
            facts = measured.get(sample.key, (None, None, ""))[0]
            try:
                if facts:
                    known[sample.key] = int(facts.phash, 16)
                elif sample.key not in known:
                    known[sample.key] = _hash(load_array(sample.image, SIDE, sample.old_ground))
            except (UserError, OSError):
                continue  # preparing the run reports it
            keys.append(sample.key)
            hashes.append(known[sample.key])
        if keys:
            yield keys, np.array(hashes, np.uint64)


def _hash(image: np.ndarray) -> int:
    import cv2

    return int(perceptual_hash(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)), 16)
