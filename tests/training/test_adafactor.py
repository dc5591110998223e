"""Adafactor: the same updates as transformers', and a state that either can continue with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor as TransformersAdafactor

from benchmarks.kernels import count
from engine.config import OptimConfig
from engine.training import adafactor
from engine.training.checkpoint import optimizer_to_tensors, tensors_to_optimizer
from engine.training.optim import build_optimizer, parameter_groups, set_learning_rate, updated_parameters


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 32, 3), nn.Conv2d(32, 8, 1), nn.Linear(64, 32), nn.GroupNorm(4, 32), nn.Linear(3, 5)]
    return nn.ModuleList(layers)


def ours(of: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(of, OptimConfig(optimizer="adafactor", learning_rate=1e-3, weight_decay=0.05))


def theirs(of: nn.Module) -> torch.optim.Optimizer:
    own_rate: dict[str, Any] = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return TransformersAdafactor(parameter_groups(of, 0.05), lr=1e-3, **own_rate)


def set_gradients(number: int, *nets: nn.Module) -> None:
    """The same random gradients, of another size in each step; some rows and whole weights have none."""
    draws = torch.Generator().manual_seed(number)
    for index, same in enumerate(zip(*(one.parameters() for one in nets), strict=True)):
        gradient = torch.randn(same[0].shape, generator=draws) * 10.0 ** -(number % 5)
        gradient[0] *= number % 3 != 0
        for parameter in same:
            parameter.grad = None if (index, number) == (1, 4) else gradient.clone()


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("at_once", [500, 2**25])
def test_the_updates_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(adafactor, "AT_ONCE", at_once)
    one = net()
    other = copy.deepcopy(one)
    first, second = ours(one), theirs(other)
    began = copy.deepcopy(one)
    for number in range(12):
        rate = 1e-3 / (number + 1)
        set_learning_rate(first, rate)
        set_learning_rate(second, rate)
        set_gradients(number, one, other)
        first.step()
        second.step()
        assert distance(one, other) < 1e-7
    assert distance(one, began) > 1e-3
    for parameter, same in zip(one.parameters(), other.parameters(), strict=True):
        state, wanted = first.state[parameter], second.state[same]
        assert set(state) | {"RMS"} == set(wanted) and state["step"] == wanted["step"]
        for name in set(state) - {"step"}:
            assert torch.allclose(state[name], wanted[name], rtol=1e-5, atol=0)


def test_a_checkpoint_of_an_earlier_version_goes_on() -> None:
    """Its state was written by transformers' Adafactor; the other way works as well."""
    one = net()
    other = copy.deepcopy(one)
    before, after = theirs(one), ours(other)
    for number in range(3):
        set_gradients(number, one)
        before.step()
    other.load_state_dict(one.state_dict())
    tensors_to_optimizer(after, *optimizer_to_tensors(before))
    back_net = copy.deepcopy(other)
    set_gradients(3, one, other)
    before.step()
    after.step()
    assert distance(one, other) < 1e-7 and distance(other, back_net) > 1e-5
    back = theirs(back_net)
    tensors_to_optimizer(back, *optimizer_to_tensors(after))
    back_net.load_state_dict(other.state_dict())
    set_gradients(5, other, back_net)
    after.step()
    back.step()
    assert distance(other, back_net) < 1e-7


def test_memory_that_runs_out_between_two_parts_leaves_each_weight_updated_once_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adafactor, "AT_ONCE", 500)
    one = net()
    optimizer, before = ours(one), copy.deepcopy(one)
    set_gradients(1, one)
    kernel, calls = torch._foreach_rsqrt, []

    def fails(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("in the middle of a part")
        return kernel(*given)

    monkeypatch.setattr(torch, "_foreach_rsqrt", fails)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step()
    updated = updated_parameters(optimizer)
    assert 0 < len(updated) < len(list(one.parameters()))
    for parameter, was in zip(one.parameters(), before.parameters(), strict=True):
        assert (parameter in updated) != torch.equal(parameter, was)


def test_many_weights_share_a_kernel() -> None:
    """Counted as in docs/performance.md: a third of the kernels, two thirds of the traffic."""
    with torch.device("meta"):
        layers = [nn.Conv2d(64, 64, 3), nn.Linear(256, 256), nn.GroupNorm(4, 64), nn.Conv2d(64, 128, 1)]
        many = nn.ModuleList(copy.deepcopy(layer) for layer in layers for _ in range(10))
    for parameter in many.parameters():
        parameter.grad = torch.empty_like(parameter)
    fewer, usual = count(ours(many).step), count(theirs(many).step)
    assert fewer.kernels < usual.kernels / 3 and fewer.bytes < 0.7 * usual.bytes
