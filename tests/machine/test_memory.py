"""Smaller batches when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from engine.machine.memory import AdaptiveBatch, none_if_out_of_memory


def fits(most: int, tried: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def work(batch: Sequence[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > most:
            raise RuntimeError("CUDA error: out of memory")
        return [10 * item for item in batch]

    return work


def test_batches_are_halved_until_they_fit_and_stay_small() -> None:
    tried: list[int] = []
    halved: list[tuple[int, int]] = []
    batch = AdaptiveBatch(8, on_halved=lambda tried, size: halved.append((tried, size)))
    made = [result for results in batch.over(range(9), fits(3, tried)) for result in results]
    assert made == [10 * item for item in range(9)], "in order, each once"
    assert tried == [8, 4, 2, 2, 2, 2, 1] and halved == [(8, 4), (4, 2)] and batch.size == 2


@pytest.mark.parametrize(("smallest", "tried_last"), [(1, 1), (2, 2)])
def test_a_batch_that_cannot_be_smaller_is_given_up(smallest: int, tried_last: int) -> None:
    tried: list[int] = []
    batch = AdaptiveBatch(4, smallest)
    with pytest.raises(MemoryError):
        list(batch.over(range(9), fits(0, tried)))
    assert tried[-1] == tried_last and batch.size == 1


def test_other_errors_pass() -> None:
    def wrong(batch: Sequence[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(AdaptiveBatch(4).over(range(9), wrong))
    assert none_if_out_of_memory(lambda: 1) == 1
