"""What control nets add to a transformer: which output enters behind which block, and what several nets add."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Residuals = tuple[list[torch.Tensor | None], ...]
"""For each kind of the denoiser's blocks a list with an entry for each of them: what is added behind it, or None.
Several entries may be one tensor."""


def each(residuals: Residuals, change: Callable[[torch.Tensor], torch.Tensor]) -> Residuals:
    """Residuals of which each tensor is changed once, however many blocks it serves."""
    changed = {id(one): change(one) for kind in residuals for one in kind if one is not None}
    return tuple([None if one is None else changed[id(one)] for one in kind] for kind in residuals)


def sum_of(residuals: Sequence[Residuals]) -> Residuals:
    """What several control nets add together. Their numbers of outputs may differ."""
    sums: dict[tuple[int, ...], torch.Tensor] = {}

    def total(entries: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        there = [one for one in entries if one is not None]
        key = tuple(id(one) for one in there)
        if there and key not in sums:
            sums[key] = sum(there[1:], start=there[0])
        return sums[key] if there else None

    return tuple([total(entries) for entries in zip(*kind, strict=True)] for kind in zip(*residuals, strict=True))


def spread(outputs: Sequence[torch.Tensor] | None, blocks: int, repeated: bool = False) -> list[torch.Tensor | None]:
    """The output that serves each of the denoiser's blocks: each serves as many neighbours, rounded up.

    Args:
        repeated: they follow one another, again and again.
    """
    if not outputs:
        return [None] * blocks
    together = math.ceil(blocks / len(outputs))
    return [outputs[n % len(outputs) if repeated else n // together] for n in range(blocks)]
