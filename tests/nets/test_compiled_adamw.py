"""AdamW in one pass over the memory: the updates of PyTorch's own, in fp16 and bf16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.compiled_adamw import CompiledAdamW, adamw_step, compiled

STEPS = 8
Update = Callable[..., None]


def failing(after: int) -> Update:
    """A compiler that fails at its n-th call."""
    calls: list[int] = []

    def update(*given: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("Compiler: g++ is not found")
        adamw_step(*given)

    return update


def train(
    update: Update | None, dtype: torch.dtype, on_card: bool = False
) -> tuple[nn.Module, CompactMasterWeights, torch.optim.AdamW, list[str]]:
    """Some steps, of which one is skipped as a card skips it, and others are clipped.

    Args:
        update: None: PyTorch's own.
        on_card: clip and skip by the tensors that the fused kernel reads, not by a factor.
    """
    torch.manual_seed(0)
    master = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4))
    weights = CompactMasterWeights(master, dtype, "whole")
    weights.compute.to(memory_format=torch.channels_last)
    weights.refresh()
    weights.keep_half_gradients()
    groups = [
        {"params": [one for one in master.parameters() if one.ndim > 1], "weight_decay": 0.1},
        {"params": [one for one in master.parameters() if one.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer: Any = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    said: list[str] = []
    if update is not None:
        weights.use_compiled_adamw(CompiledAdamW(optimizer, update, lambda error: said.append(str(error))))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (step + 1)
        inputs = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        (weights.compute(inputs.to(dtype)).float() - 1).square().mean().backward()
        parameters = list(master.parameters())
        norm = weights.gradient_norm(parameters)
        if step == 3:
            next(weights.compute.parameters()).grad.fill_(torch.nan)
        if on_card:
            optimizer.found_inf = torch.tensor(float(step == 3))
            optimizer.grad_scale = (norm / 0.3).clamp(min=1)
        else:
            weights.multiply_gradients(parameters, min(1.0, 0.3 / float(norm)))
        if step == 3 and not on_card:
            weights.drop_gradients()
        else:
            weights.update(optimizer.step, step)
        optimizer.found_inf = optimizer.grad_scale = None
        optimizer.zero_grad(set_to_none=True)
        assert all(copy.grad is None for copy in weights.master_of)
        weights.refresh()
    return master, weights, optimizer, said


def require_alike(one: Any, other: Any) -> None:
    for ours, theirs in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7)
        for name, value in other[2].state[theirs].items():
            assert torch.allclose(one[2].state[ours][name], value, rtol=1e-5, atol=1e-9), name
    for ours, theirs in zip(one[1].master_of.items(), other[1].master_of.items(), strict=True):
        assert torch.equal(ours[0], ours[1].to(ours[0].dtype)), "the copy is the weight, rounded"
        assert (ours[0].float() - theirs[0].float()).abs().max() <= 2**-8 * theirs[0].float().abs().max()


@pytest.mark.parametrize("on_card", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_updates_are_those_of_pytorch(dtype: torch.dtype, on_card: bool) -> None:
    ours, theirs = train(adamw_step, dtype, on_card), train(None, dtype, on_card)
    require_alike(ours, theirs)
    assert ours[3] == [] and all(one.isfinite().all() for one in ours[0].parameters())
    counts = {float(state["step"]) for state in ours[2].state.values()}
    assert counts == {STEPS - 1}, "a skipped step does not count"
    # Its state is torch's: a checkpoint of either goes on with the other.
    theirs[2].load_state_dict(ours[2].state_dict())


@pytest.mark.parametrize("after", [0, 1, 4])
def test_where_it_cannot_be_compiled_pytorchs_update_takes_over_and_nothing_is_updated_twice(after: int) -> None:
    ours = train(failing(after), torch.bfloat16)
    require_alike(ours, train(None, torch.bfloat16))
    assert ours[3] == ["Compiler: g++ is not found"], "said once"


def test_memory_that_runs_out_is_no_failure_of_the_compiler() -> None:
    def update(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        train(update, torch.bfloat16)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compiled_it_is_one_kernel_for_each_weight(dtype: torch.dtype) -> None:
    """By torch's compiler for processors; on a card it makes Triton kernels of the same graph."""
    from torch._inductor import metrics

    torch._dynamo.reset()
    metrics.reset()
    ours = train(compiled(), dtype, on_card=True)
    require_alike(ours, train(None, dtype, on_card=True))
    assert ours[3] == []
    scalars = 2  # what is the same for all weights of a group
    weights = len(list(ours[0].parameters()))
    assert 0 < metrics.generated_kernel_count <= weights + 2 * scalars
