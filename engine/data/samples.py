"""The rows of a dataset: samples, problems of files that cannot be used, and selections of samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_WEIGHT = 100.0


@dataclass(frozen=True)
class Sample:
    """One training image with its caption and, in paired sets, its condition map."""

    key: str
    """Path of the image relative to the source folder, with forward slashes. Unique in a dataset."""
    image: Path
    caption: str
    condition: Path | None
    """The map that came with the image. ``Dataset.condition_path`` finds the maps that the app makes."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    digest: str = ""
    """Hash of the image file."""
    condition_digest: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    source: str = ""
    """Where the image was fetched from (a URL, or a row of a published dataset). Empty for the user's own files."""
    status: str = "ready"
    """``ready`` for training. Anything else is listed but not used."""
    weight: float = 1.0
    """Its loss is multiplied by this in training, 0 to ``MOST_WEIGHT``."""
    old_ground: bool = False
    """Transparent parts are read as earlier versions did, see ``to_rgb``: so of datasets that these have read."""


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used. The page shows the sentences unchanged."""

    path: Path
    what: str
    why: str
    try_this: str


@dataclass(frozen=True)
class Page:
    """One page of samples. ``number`` counts from 0."""

    samples: list[Sample]
    number: int
    pages: int
    total: int


@dataclass(frozen=True)
class Split:
    """Disjoint samples for training and for testing."""

    train: list[Sample]
    held_out: list[Sample]


def split(usable: Sequence[Sample], count: int, seed: int = 0) -> Split:
    """Holds out the first ``count`` samples in the order of ``by_hash``, at most half of all."""
    chosen = {sample.key for sample in by_hash(usable, seed)[: min(count, len(usable) // 2)]}
    train = [sample for sample in usable if sample.key not in chosen]
    return Split(train, [sample for sample in usable if sample.key in chosen])


def by_hash(samples: Iterable[Sample], seed: int) -> list[Sample]:
    """Samples in a random order that depends on the seed and on each sample's key alone."""
    return sorted(samples, key=lambda s: hashlib.blake2b(f"{seed}:{s.key}".encode(), digest_size=8).digest())


def add_to_fingerprint(state: Any, sample: Sample) -> None:
    """Adds all that training depends on to a hash: the key, the contents of both files, the caption, the weight."""
    parts: list[Any] = [sample.key, sample.digest, sample.condition_digest, sample.caption]
    if sample.weight != 1:  # the fingerprints of datasets without weights stay as they were
        parts.append(sample.weight)
    state.update(json.dumps(parts).encode())
