"""The order of batches with several sizes: complete, fair, and the same from any point on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.data.balance import ImageClass
from engine.training.batch_order import BatchOrder, order

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


BALANCED = (ImageClass("large", tuple(range(7)), 7), ImageClass("small", (7, 8), 7), ImageClass("once", (9, 10), 2))


def test_one_class_that_is_drawn_once_changes_nothing() -> None:
    once = (ImageClass("", tuple(range(11)), 11),)
    plain, one_class = (BatchOrder(ROWS, 3, 2, classes) for classes in ((), once))
    assert [one_class.batch(number) for number in range(40)] == [plain.batch(number) for number in range(40)]


def test_classes_are_drawn_equally_often_in_every_epoch() -> None:
    schedule = BatchOrder({(64, 64): range(11)}, seed=3, batch_size=4, classes=BALANCED)
    drawn = [entry for number in range(16) for entry in schedule.batch(number)]  # four epochs of 16 draws
    for epoch in range(4):
        rows = Counter(row for row, _ in drawn[16 * epoch : 16 * epoch + 16])
        assert [sum(rows[row] for row in one.rows) for one in BALANCED] == [7, 7, 2]
        assert {rows[row] for row in (*range(7), 9, 10)} == {1} and {rows[7], rows[8]} == {3, 4}
    in_all = Counter(row for row, _ in drawn)
    assert in_all[7] == in_all[8] == 14
    for row, count in in_all.items():
        assert sorted(turn for other, turn in drawn if other == row) == list(range(count)), "each turn has its own crop"


def test_classes_over_several_sizes_are_balanced_and_any_batch_can_be_asked_for_first() -> None:
    straight = BatchOrder(ROWS, seed=3, batch_size=1, classes=BALANCED)
    wanted = [straight.batch(number) for number in range(64)]
    rows = Counter(row for batch in wanted for row, _ in batch)
    assert [sum(rows[row] for row in one.rows) for one in BALANCED] == [28, 28, 8]
    fresh = BatchOrder(ROWS, seed=3, batch_size=1, classes=BALANCED)
    assert [fresh.batch(number) for number in (63, 5, 17)] == [wanted[number] for number in (63, 5, 17)]
