"""Master weights in two halves, and none: what is exact, and what is right on average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.nets import compact_weights
from engine.nets.compact_weights import CompactMasterWeights, join, round_stochastically, split
from engine.nets.master_weights import MasterWeightSync
from engine.training.adafactor import Adafactor


def bit_patterns(*patterns: int) -> torch.Tensor:
    signed = [pattern - 2**32 if pattern >= 2**31 else pattern for pattern in patterns]
    return torch.tensor(signed, dtype=torch.int32).view(torch.float32)


def test_two_halves_are_the_whole_bit_for_bit() -> None:
    any_bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), generator=torch.Generator().manual_seed(1))
    awkward = bit_patterns(0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7FFFFFFF, 1, 0x3F808000, 0xBF808000)
    for weights in (any_bits.to(torch.int32).view(torch.float32), awkward, torch.randn(40, 30, 3, 3)):
        high, low = split(weights)
        assert torch.equal(join(high, low).view(torch.int32), weights.view(torch.int32))
        assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int16)
    ordinary = torch.randn(100_000)
    tie = (ordinary.view(torch.int32) & 0xFFFF) == 0x8000
    assert torch.equal(split(ordinary)[0][~tie], ordinary.bfloat16()[~tie]), "the nearest"
    assert split(bit_patterns(0x3F808000, 0xBF808000))[0].tolist() == [1.0078125, -1.0078125], "a tie: away from zero"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 3e-3, 2e-5, 4e-7])
def test_rounding_at_random_is_right_on_average(dtype: torch.dtype, size: float) -> None:
    """The mean of many roundings lies within five standard errors; each is one of the two neighbours."""
    draws, count = torch.Generator().manual_seed(3), 40_000
    for weight in (1.234567 * size, -1.73 * size):
        rounded = round_stochastically(torch.full((count,), weight), dtype, draws).double()
        neighbours = rounded.unique()
        assert len(neighbours) <= 2
        below, above = neighbours[0], neighbours[-1]
        exact = float(torch.tensor(weight))
        assert below <= exact <= above
        share = (exact - below) / (above - below) if above > below else torch.zeros(())
        error = (above - below) * (share * (1 - share) / count).sqrt()
        assert abs(float(rounded.mean()) - exact) <= 5 * float(error) + 1e-12 * size
    held = torch.randn(1000).to(dtype)
    assert torch.equal(round_stochastically(held.float(), dtype, draws), held), "what fits stays as it is"


def nets(kind: str) -> tuple[nn.Module, MasterWeightSync]:
    torch.manual_seed(0)
    master = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4))
    if kind == "whole":
        weights: MasterWeightSync = MasterWeightSync(master, torch.bfloat16)
        weights.refresh = lambda: _store_nearest(weights)  # type: ignore[method-assign]
    elif kind in ("fp32 gradients", "half gradients"):
        weights = CompactMasterWeights(master, torch.bfloat16, "whole")
        if kind == "half gradients":
            weights.keep_half_gradients()
    else:
        weights = CompactMasterWeights(master, torch.bfloat16, kind)
    weights.refresh()
    return master, weights


def _store_nearest(weights: MasterWeightSync) -> None:
    """The rounding of ``split``, which differs from torch's in ties alone."""
    for copy, master in weights.master_of.items():
        copy.data.copy_(split(master.data)[0])


def train(
    kind: str, steps: int, optimizer_of: Any = torch.optim.AdamW, rate: float = 1e-4, micro_batches: int = 1
) -> tuple[Any, list[float]]:
    """A few steps towards a fixed output; weights at the end and the losses."""
    master, weights = nets(kind)
    optimizer = optimizer_of(master.parameters(), lr=rate)
    inputs, target = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(5)), torch.ones(16, 4)
    losses = []
    for number in range(steps):
        for part in range(micro_batches):
            loss = weights.compute(inputs[part::micro_batches].bfloat16()).float() - target[: 16 // micro_batches]
            (loss.square().mean() / micro_batches).backward()
            if part + 1 < micro_batches:
                weights.widen_gradients()
        losses.append(loss.square().mean().item())
        parameters = list(master.parameters())
        norm = float(weights.gradient_norm(parameters))
        weights.multiply_gradients(parameters, min(1.0, 0.3 / norm))  # of which some are clipped
        weights.update(optimizer.step, number)
        optimizer.zero_grad(set_to_none=True)
        weights.refresh()
    with weights.whole_weights():
        return [parameter.detach().clone() for parameter in master.parameters()], losses


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_in_two_halves_training_has_the_same_bits(
    optimizer: Any, micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_weights, "AT_ONCE", 250)  # in several parts
    whole, losses = train("whole", 12, optimizer, micro_batches=micro_batches)
    halves, same = train("split", 12, optimizer, micro_batches=micro_batches)
    assert losses == same and losses[-1] < losses[0]
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, Adafactor])
def test_with_gradients_in_half_precision_training_has_the_same_bits(
    optimizer: Any, micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_weights, "AT_ONCE", 250)  # in several parts
    wide, losses = train("fp32 gradients", 12, optimizer, micro_batches=micro_batches)
    half, same = train("half gradients", 12, optimizer, micro_batches=micro_batches)
    assert losses == same and losses[-1] < losses[0]
    assert all(torch.equal(one, other) for one, other in zip(wide, half, strict=True))


def test_without_master_weights_updates_that_half_precision_cannot_hold_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounded to the nearest, most weights would stay where they are."""
    (_, exact), (_, rounded) = train("whole", 100, rate=2e-5), train("none", 100, rate=2e-5)
    monkeypatch.setattr(compact_weights, "round_stochastically", lambda weights, dtype, draws: weights.to(dtype))
    _, stuck = train("none", 100, rate=2e-5)
    gain = exact[0] - exact[-1]
    assert gain > 0.03 * exact[0] and rounded[0] - rounded[-1] == pytest.approx(gain, rel=0.15)
    assert stuck[0] - stuck[-1] < 0.5 * gain


def values(net: nn.Module) -> set[float]:
    return {value for parameter in net.parameters() for value in parameter.detach().unique().tolist()}


@pytest.mark.parametrize("kind", ["split", "none"])
def test_between_steps_no_master_weight_is_whole_and_none_can_be_mistaken_for_one(kind: str) -> None:
    master, weights = nets(kind)
    for parameter in master.parameters():
        assert parameter.untyped_storage().nbytes() == 4 and parameter.isnan().all()
        with pytest.raises(RuntimeError), torch.no_grad():
            parameter += 1
    with weights.whole_weights(changed=True), torch.no_grad():
        for parameter in master.parameters():
            parameter.fill_(1.5)
    assert values(weights.compute) == {1.5}
    assert {float(value) for read in weights.read(list(master.parameters())) for value in read.unique()} == {1.5}
    assert all(parameter.isnan().all() for parameter in master.parameters())
    averages = [torch.full(parameter.shape, 2.0) for parameter in master.parameters()]
    with weights.computing_weights(list(master.parameters()), averages) as net:
        assert values(net) == {2.0}
    assert values(weights.compute) == {1.5}
    weights.keep_whole(torch.device("cpu"))
    assert all(torch.equal(parameter, torch.full_like(parameter, 1.5)) for parameter in master.parameters())
    with torch.no_grad():
        next(master.parameters()).fill_(3.0)
    weights.refresh()
    assert set(next(weights.compute.parameters()).unique().tolist()) == {3.0}


def test_memory_that_runs_out_in_an_update_leaves_gradients_and_whole_weights_for_the_next_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compact_weights, "AT_ONCE", 250)
    master, weights = nets("split")
    optimizer, calls = torch.optim.SGD(master.parameters(), lr=1.0), []
    with weights.whole_weights():
        before = [parameter.detach().clone() for parameter in master.parameters()]
    for parameter in master.parameters():
        parameter.grad = torch.ones(parameter.shape)

    def step() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("in the second part")
        optimizer.step()

    with pytest.raises(torch.OutOfMemoryError):
        weights.update(step, 0)
    left = [parameter.grad is not None for parameter in master.parameters()]
    assert any(left) and not all(left)
    weights.update(step, 0)
    weights.refresh()
    with weights.whole_weights():
        for was, parameter in zip(before, master.parameters(), strict=True):
            assert torch.equal(parameter, was - 1)


@pytest.mark.parametrize("kind", ["split", "half gradients"])
def test_gradients_take_half_until_they_are_used_or_added_up(kind: str) -> None:
    master, weights = nets(kind)
    inputs = torch.randn(16, 3, 6, 6).bfloat16()
    weights.compute(inputs).float().square().mean().backward()
    assert all(copy.grad is not None and copy.grad.dtype == torch.bfloat16 for copy in weights.master_of)
    assert all(parameter.grad is None for parameter in master.parameters())
    weights.widen_gradients()
    once = [parameter.grad.clone() for parameter in master.parameters()]
    weights.compute(inputs).float().square().mean().backward()
    assert all(torch.equal(parameter.grad, 2 * one) for parameter, one in zip(master.parameters(), once, strict=True))
    assert all(copy.grad is None for copy in weights.master_of)
    weights.leave_out(list(master.parameters())[:3])
    assert [parameter.grad is None for parameter in master.parameters()] == [True] * 3 + [False] * 3
