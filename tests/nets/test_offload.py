"""Gradients on their way to RAM beside the backward pass. The card's copies are simulated: they arrive late."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.nets import offload
from engine.nets.master_weights import MasterWeightSync
from engine.nets.offload import Copy, Offload

CPU = torch.device("cpu")


class LateCopier:
    """What is copied to RAM is not there before somebody waits for it, or, in time, by itself."""

    def __init__(self, looks: int) -> None:
        self._looks, self.under_way, self.most, self.waits = looks, 0, 0, 0

    def to_ram(self, gradient: torch.Tensor) -> Copy:
        there, source, looks = torch.full_like(gradient, torch.nan), gradient.clone(), self._looks
        self.under_way += gradient.nbytes
        self.most = max(self.most, self.under_way)

        def arrived() -> bool:
            nonlocal looks
            looks -= 1
            return looks < 0

        def wait() -> None:
            self.waits += 1
            self.under_way -= gradient.nbytes
            there.copy_(source)

        return Copy(there, arrived, wait)

    def to_card(self, weight: torch.Tensor, copy: torch.Tensor) -> Copy:
        copy.copy_(weight)
        return Copy(copy, lambda: False, lambda: None)


def nets(copier: LateCopier | None) -> tuple[nn.Module, MasterWeightSync]:
    torch.manual_seed(0)
    master = nn.Sequential(*(nn.Linear(16, 16) for _ in range(6)))
    weights = MasterWeightSync(master, torch.bfloat16, CPU)
    if copier is not None:
        weights.offload.copier = copier
    return master, weights


def train(copier: LateCopier | None) -> list[torch.Tensor]:
    """Three steps of two micro-batches; in the second one a first try is given up."""
    master, weights = nets(copier)
    optimizer = torch.optim.AdamW(master.parameters(), lr=1e-2)
    draws = torch.Generator().manual_seed(3)
    for step in range(3):
        inputs = torch.randn(2, 8, 16, generator=draws).bfloat16()
        for attempt in range(1 + (step == 1)):
            for part in inputs:
                weights.compute(part).float().square().mean().backward()
            if (step, attempt) == (1, 0):  # memory ran out: the gradients are dropped, also those under way
                for parameter in master.parameters():
                    parameter.grad = None
                weights.drop_gradients()
        weights.finish_gradients()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights.refresh()
    weights.finish_gradients()
    return [parameter.detach() for net in (master, weights.compute) for parameter in net.parameters()]


@pytest.mark.parametrize("looks", [0, 1, 5, 10**6])
def test_whenever_gradients_arrive_the_bits_are_the_same(looks: int) -> None:
    found = train(LateCopier(looks))
    assert all(torch.equal(one, other) for one, other in zip(found, train(None), strict=True))


def test_no_more_is_under_way_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = 16 * 16 * 2
    monkeypatch.setattr(offload, "MOST_WAITING", 2 * weight)
    copier = LateCopier(10**6)
    master, weights = nets(copier)
    weights.compute(torch.randn(8, 16).bfloat16()).float().square().mean().backward()
    assert weight < copier.most <= 3 * weight and 0 < copier.waits < 12
    assert any(parameter.grad is None for parameter in master.parameters()), "the last ones are still under way"
    weights.finish_gradients()
    assert copier.waits == 12 and all(parameter.grad is not None for parameter in master.parameters())


def test_a_gradient_that_is_larger_than_that_is_sent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "MOST_WAITING", 1)
    copier, arrived = LateCopier(10**6), []
    copies = Offload(copier)
    for number in range(3):
        copies.send_gradient(torch.full((4,), float(number)), lambda there: arrived.append(there.tolist()))
    assert arrived == [[0.0] * 4, [1.0] * 4]
    copies.finish()
    assert arrived[-1] == [2.0] * 4


def test_without_a_card_nothing_is_copied_beside_anything() -> None:
    assert not Offload().overlaps(torch.zeros(1), torch.zeros(1))
