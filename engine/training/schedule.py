"""Which images are in which batch, where every batch holds images of one size only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.training.objective import order


class Schedule:
    """An endless list of batches; number n depends on (seed, n) alone, so that a resumed run goes on in the middle.

    Each size has its own endless stream of shuffled rounds through its images. Which size comes next is drawn in
    proportion to its images: in as many batches as there are images, each size has exactly one for each image it
    has, so that after these every image of the set was seen ``batch_size`` times. None is left over or repeated.
    With one size this is the plain order of shuffled epochs.
    """

    def __init__(self, rows_by_size: Mapping[tuple[int, int], Sequence[int]], seed: int, batch_size: int) -> None:
        self._rows = [list(rows) for _, rows in sorted(rows_by_size.items()) if rows]
        self._seed, self._size = seed, batch_size
        self._total = sum(len(rows) for rows in self._rows)
        owners = np.concatenate([np.full(len(rows), owner) for owner, rows in enumerate(self._rows)])
        self._owners = owners  # one place in the list for each image
        self._drawn: tuple[int, np.ndarray] | None = None

    def batch(self, number: int) -> list[tuple[int, int]]:
        """(row, how many rounds its size has been through) of each image in batch ``number``, counted from 0."""
        block, place = divmod(number, self._total)
        drawn = self._block(block)
        owner = int(drawn[place])
        rows = self._rows[owner]
        before = block * len(rows) + int(np.count_nonzero(drawn[:place] == owner))
        first = before * self._size
        places = order(self._seed, len(rows), first, self._size)
        return [(rows[at], (first + n) // len(rows)) for n, at in enumerate(places)]

    def _block(self, block: int) -> np.ndarray:
        """The sizes of the batches of one block, in their order."""
        if self._drawn is None or self._drawn[0] != block:
            shuffled = np.random.default_rng([self._seed, 2, block]).permutation(self._owners)
            self._drawn = (block, shuffled)
        return self._drawn[1]
