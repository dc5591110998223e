"""Smaller batches when memory runs out, and the memory of the card that this process may use."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch

from engine.machine.memory import AdaptiveBatch, cap_allocator, none_if_out_of_memory, usable_bytes


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


GIB = 2**30


@pytest.mark.answers("Out of memory")
@pytest.mark.parametrize("system", ["Windows", "Linux"])
def test_windows_is_kept_from_spilling_into_shared_memory(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured anew each time: other programs use the card, too."""
    caps: list[float] = []
    free, device = [6 * GIB, 3 * GIB], SimpleNamespace(type="cuda")
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (free[0], 8 * GIB))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: caps.append(fraction))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: caps[-1] if caps else 1.0)
    usable = []
    for _ in range(2):
        cap_allocator(device)
        usable.append(usable_bytes(device))
        free.reverse()
    cap_allocator(torch.device("cpu"))
    spare = GIB / 4 if system == "Windows" else 0
    assert usable == [7 * GIB - spare, 4 * GIB - spare] and usable_bytes(torch.device("cpu")) is None
    assert caps == ([(7 - 0.25) / 8, (4 - 0.25) / 8] if system == "Windows" else [])
