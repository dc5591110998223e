"""The order of batches with several sizes: complete, fair, and the same from any point on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.training.batches import BatchOrder, order

ROWS = {(64, 64): list(range(7)), (128, 64): [7, 8, 9], (64, 128): [10]}


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_every_batch_has_one_size_and_every_image_its_turn(batch_size: int) -> None:
    schedule = BatchOrder(ROWS, seed=3, batch_size=batch_size)
    seen: Counter[int] = Counter()
    for number in range(11):
        rows = [row for row, _ in schedule.batch(number)]
        assert len(rows) == batch_size
        assert any(set(rows) <= set(of_size) for of_size in ROWS.values())
        seen.update(rows)
    assert set(seen.values()) == {batch_size} and len(seen) == 11


def test_any_batch_can_be_asked_for_first() -> None:
    straight = BatchOrder(ROWS, seed=3, batch_size=2)
    wanted = [straight.batch(number) for number in range(40)]
    assert [BatchOrder(ROWS, seed=3, batch_size=2).batch(number) for number in range(40)] == wanted
    assert [BatchOrder(ROWS, seed=4, batch_size=2).batch(number) for number in range(40)] != wanted


def test_one_size_is_the_plain_order() -> None:
    schedule = BatchOrder({(64, 64): [5, 6, 7, 8, 9]}, seed=2, batch_size=3)
    got = [entry for number in range(10) for entry in schedule.batch(number)]
    assert [row for row, _ in got] == [5 + place for place in order(2, 5, 0, 30)]
    assert [epoch for _, epoch in got] == [place // 5 for place in range(30)]


class Interrupted(BatchOrder):
    """Another thread draws another block as soon as this one has kept its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_drawn" and value is not None:
            value = (value[0] + 1, np.full_like(value[1], 0))
        super().__setattr__(name, value)


def test_a_thread_that_reads_ahead_does_not_change_what_another_one_gets() -> None:
    wanted = [BatchOrder(ROWS, seed=3, batch_size=2).batch(number) for number in range(40)]
    assert [Interrupted(ROWS, seed=3, batch_size=2).batch(number) for number in (5, 39, 0)] == [
        wanted[number] for number in (5, 39, 0)
    ]
