"""What is foreseen of memory is what the app's own step would hold, at the real shapes of Stable Diffusion 1.5."""

from __future__ import annotations

import pytest
import torch

from benchmarks.simulated_card import BLOCK, CARD, counting, fused_attention
from benchmarks.shapes import SIDES, count, foreseen, prepare, settings


def test_blocks_are_counted_from_their_making_to_their_end() -> None:
    with counting(beside=True) as counter:
        first = torch.zeros(1000, device=CARD)
        assert counter.now == 8 * BLOCK, "4,000 bytes in blocks of 512"
        second = first[10:] + 1
        assert counter.now == 16 * BLOCK and first[3:].shape == (997,), "a view is no memory of its own"
        torch.zeros(10**9)
        del first
        assert (counter.now, counter.peak) == (8 * BLOCK, 16 * BLOCK), "what is in RAM does not count"
        del second
        assert counter.now == 0


def test_attention_is_counted_without_the_square_of_all_pairs() -> None:
    with counting(beside=False) as counter:
        query = torch.zeros(1, 8, 4096, 40, device=CARD, dtype=torch.float16, requires_grad=True)
        before = counter.now
        answer = fused_attention(query, query, query)
        rows = 8 * 4096 * 4
        assert counter.now - before <= query.nbytes + rows + 16 * BLOCK
        answer.sum().backward()
        assert counter.peak < before + 8 * query.nbytes


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("preset", ["6gb", "8gb", "12gb", "16gb"])
def test_a_step_holds_what_is_foreseen(preset: str) -> None:
    counted = count(preset, "sd1")
    assert sum(counted.foreseen.training.values()) == pytest.approx(counted.training, rel=0.03)
    assert sum(counted.foreseen.pictures.values()) == pytest.approx(counted.pictures, rel=0.03)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("family", SIDES)
def test_encoding_holds_what_is_foreseen(family: str) -> None:
    found = prepare(family)
    expected = sum(foreseen(settings("8gb", family), family).preparing.values())
    assert max(found.values()) == pytest.approx(expected, rel=0.03)
