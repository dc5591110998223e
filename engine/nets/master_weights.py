"""Weights that learn are kept in fp32; what computes with them is a copy in the run's precision.

Corrections of 1e-5 are smaller than half precision can add to a weight, so the optimizer moves the fp32 weights, the
copy is made anew after each step, and its gradients are added up in fp32 (Micikevicius et al. 2017, arXiv 1710.03740,
section 3.1). Nothing runs under autocast: no weight is cast a second time, and norms answer in the run's precision
(they add up in fp32 inside their kernels). In fp32 there is one net, and nothing is copied.

What learns, its gradients and the optimizer may also stay in the computer's memory, and only the copy be on the card:
then 2 bytes a weight are there in place of 18 (Ren et al. 2021, "ZeRO-Offload", arXiv 2101.06840).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.nets.ema import averaged_weights
from engine.nets.lora import thin_layers

if TYPE_CHECKING:
    from engine.training.trainer import Trainer


class WorkingNets:
    """The ControlNet that computes, and where weights and gradients go between it and the one that learns."""

    def __init__(self, controlnet: Any, dtype: torch.dtype, device: torch.device | None = None) -> None:
        """
        Args:
            controlnet: what learns, fp32; weights that are the base's own are in ``dtype`` already.
            dtype: what to compute in.
            device: where to compute, if not where it learns: that is in the computer's memory then.
        """
        self.learner_of: dict[nn.Parameter, nn.Parameter] = {}
        """What learns, by its copy that computes; empty where both are one."""
        self.stale = False
        """The copies are not what learns: memory ran out when they were to be brought up to date."""
        self.apart = dtype != torch.float32 or device is not None
        self.controlnet: Any = controlnet
        if self.apart:
            self.controlnet = copy_in(controlnet, dtype, device)
            self.couple(self.controlnet, controlnet)

    def couple(self, computing: nn.Module, learning: nn.Module) -> None:
        """From now on gradients of the one go to the other, and its weights come back. Nothing to do for one net.

        A gradient is handed over, and freed, as soon as it is whole.
        """
        for one, other in zip(computing.parameters(), learning.parameters(), strict=True):
            if one is other or not other.requires_grad:
                continue  # the base's own, or silenced for good
            self.learner_of[one] = other
            one.register_post_accumulate_grad_hook(lambda p, to=other: _hand_over(p, to))  # type: ignore[misc]

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copies up to date: after a step, and whenever the weights that learn were changed."""
        if self.learner_of:
            torch._foreach_copy_(list(self.learner_of), list(self.learner_of.values()))
        self.stale = False

    def forget_gradients(self) -> None:
        """Of a try that broke off, and what was left of those that have been handed over."""
        for computing in self.learner_of:
            computing.grad = None


def _hand_over(computing: torch.Tensor, learning: torch.Tensor) -> None:
    if computing.grad is None:
        return
    if learning.grad is None:
        usual = torch.contiguous_format  # as the weight that learns; what computes may have its channels last
        learning.grad = computing.grad.to(learning.device, learning.dtype, memory_format=usual)
    else:
        learning.grad.add_(computing.grad.to(learning.device))
    computing.grad = None


def copy_in(net: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """A copy whose weights are in ``dtype``, on ``device``; those that are the base's stay the same tensors."""
    shared = {id(layer.weight) for layer in thin_layers(net).values()}
    there: dict[int, Any] = {}
    for parameter in net.parameters():
        if id(parameter) in shared:
            there[id(parameter)] = parameter
        else:
            moved = parameter.detach().to(device or parameter.device, dtype, copy=True)
            there[id(parameter)] = nn.Parameter(moved, parameter.requires_grad)
    return copy.deepcopy(net, there)


@contextmanager
def as_exported(trainer: Trainer) -> Iterator[Any]:
    """Within the block: the computing ControlNet with the weights that an export would have (the average, if any)."""
    if trainer.ema is None:
        with trainer.sharing.computing_net() as net:
            yield net
        return
    try:
        with averaged_weights(trainer.ema, trainer.controlnet):
            trainer.nets.refresh()
            yield trainer.nets.controlnet
    finally:
        trainer.nets.stale = True  # until they are up to date; where that fails, the next step begins with it
        trainer.nets.refresh()
