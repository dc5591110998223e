"""Parts of a dataset as callers get them: a page for the window, samples to train on and to test with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.data.samples import Sample


@dataclass(frozen=True)
class Page:
    """One page of samples; ``number`` counts from 0."""

    samples: list[Sample]
    number: int
    pages: int
    total: int


@dataclass(frozen=True)
class Split:
    """Disjoint samples to train on and to test with."""

    train: list[Sample]
    held_out: list[Sample]


def split(usable: Sequence[Sample], count: int, seed: int = 0) -> Split:
    """Holds ``count`` of the samples out, chosen by a hash of seed and key, at most half of them."""
    ranked = sorted(usable, key=lambda s: hashlib.blake2b(f"{seed}:{s.key}".encode(), digest_size=8).digest())
    chosen = {sample.key for sample in ranked[: min(count, len(usable) // 2)]}
    train = [sample for sample in usable if sample.key not in chosen]
    return Split(train, [sample for sample in usable if sample.key in chosen])


def add_to_fingerprint(state: Any, sample: Sample) -> None:
    """Feeds what training depends on into a hash: key, contents of both files, caption."""
    state.update(json.dumps([sample.key, sample.digest, sample.condition_digest, sample.caption]).encode())
