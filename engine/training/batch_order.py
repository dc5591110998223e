"""Which images are in which batch: shuffled epochs of each size of image, with class balance.

The order comes from (seed, number) alone, so a resumed run continues in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.data.balance import ImageClass


def order(seed: int, count: int, first: int, how_many: int) -> list[int]:
    """Rows of images number ``first`` to ``first + how_many`` of an endless stream of shuffled epochs.

    Each epoch of ``count`` rows is a permutation drawn from (seed, epoch), so a resumed run continues in mid-epoch.
    """
    rows = []
    permutations: dict[int, np.ndarray] = {}
    for position in range(first, first + how_many):
        epoch, place = divmod(position, count)
        if epoch not in permutations:
            permutations[epoch] = np.random.default_rng([seed, 1, epoch]).permutation(count)
        rows.append(int(permutations[epoch][place]))
    return rows


class BatchOrder:
    """Which images are in which batch; every batch holds images of one size.

    An endless list of batches, of which number n depends on (seed, n) alone, so that a resumed run continues in the
    middle. Each size has its own endless stream of shuffled epochs. Which size comes next is drawn in proportion to its
    images: in as many batches as there are images, each size has exactly one batch for each of its images, so after
    these every image was seen ``batch_size`` times. With one size this is the plain order of shuffled epochs.

    With class balance an epoch has as many places as the classes have draws, and a size the places of its images.
    """

    def __init__(
        self,
        rows_by_size: Mapping[tuple[int, int], Sequence[int]],
        seed: int,
        batch_size: int,
        classes: Sequence[ImageClass] = (),
    ) -> None:
        """
        Args:
            classes: of all rows; none: each image is drawn once in each epoch.
        """
        self._epochs = [_Epochs(rows, classes) for _, rows in sorted(rows_by_size.items()) if rows]
        self._seed, self._size = seed, batch_size
        self._total = sum(epochs.length for epochs in self._epochs)
        owners = np.concatenate([np.full(epochs.length, owner) for owner, epochs in enumerate(self._epochs)])
        self._owners = owners  # one entry per place
        self._drawn: tuple[int, np.ndarray] | None = None

    def batch(self, number: int) -> list[tuple[int, int]]:
        """(row, how often it was drawn before) of each image in batch ``number``, counted from 0."""
        block, place = divmod(number, self._total)
        drawn = self._block(block)
        owner = int(drawn[place])
        epochs = self._epochs[owner]
        before = block * epochs.length + int(np.count_nonzero(drawn[:place] == owner))
        first = before * self._size
        places = order(self._seed, epochs.length, first, self._size)
        return [epochs.image((first + n) // epochs.length, at) for n, at in enumerate(places)]

    def _block(self, block: int) -> np.ndarray:
        """The sizes of the batches of one block, in order."""
        drawn = self._drawn  # read once: the thread that reads ahead may draw another block in between
        if drawn is None or drawn[0] != block:
            drawn = (block, np.random.default_rng([self._seed, 2, block]).permutation(self._owners))
            self._drawn = drawn
        return drawn[1]


class _Epochs:
    """The images of one size: which one each place of an epoch has.

    Each class has a fixed number of places, which it fills with its images in turn. So a class is drawn equally often
    in every epoch, and each of its images as often as the others, give or take one.
    """

    def __init__(self, rows: Sequence[int], classes: Sequence[ImageClass]) -> None:
        self._parts: list[tuple[Sequence[int], int]] = [(rows, len(rows))] if not classes else []
        """Rows of a class, and its places."""
        here = set(rows)
        for one in classes:
            if own := [row for row in one.rows if row in here]:
                self._parts.append((own, max(1, round(len(own) * one.draws / len(one.rows)))))
        self._ends = np.cumsum([places for _, places in self._parts])
        self.length = int(self._ends[-1])
        """Places of an epoch."""

    def image(self, epoch: int, place: int) -> tuple[int, int]:
        """(row, how often it was drawn before) at a place of an epoch, both from 0."""
        part = int(np.searchsorted(self._ends, place, side="right"))
        rows, places = self._parts[part]
        turn, at = divmod(epoch * places + place - int(self._ends[part]) + places, len(rows))
        return rows[at], turn
