"""AdamW compiled to one pass over the memory (``optim.one_pass_update``). Not measured on cards yet.

PyTorch's fused AdamW reads fp32 gradients and does not know the copy that computes. So half-precision gradients are
widened before it, and the copy is written after it: three passes. Here one function does all of it to each weight, and
torch.compile makes one kernel of that: gradient, master weight and both moments are read once, the last three and the
copy are written once, 28 bytes for each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from engine.machine.errors import is_device_lost, is_out_of_memory

Tensors = Sequence[torch.Tensor]


class StepScalars(NamedTuple):
    """What is the same for all weights of a group in a step: scalars in fp32, on the device of the weights."""

    rate: torch.Tensor
    """Learning rate."""
    factor: torch.Tensor
    """Gradients are multiplied by it: clipping, and dividing by the loss scale."""
    taken: torch.Tensor
    """1, or 0: the step is skipped, and everything stays as it is."""
    count: torch.Tensor
    """Steps that were taken, with this one, if it is."""


def adamw_step(
    masters: Tensors,
    copies: Tensors,
    gradients: Tensors,
    means: Tensors,
    squares: Tensors,
    scalars: StepScalars,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
) -> None:
    """One step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101, algorithm 2), in place.

    Args:
        masters: fp32 weights.
        copies: they are computed with; rounded from ``masters`` at the end.
        gradients: in the precision of ``copies``.
        means, squares: running means of the gradients and of their squares, fp32.
    """
    beta1, beta2 = betas
    size = scalars.rate / (1 - beta1**scalars.count)
    root = (1 - beta2**scalars.count).sqrt()
    skipped = scalars.taken == 0
    for master, copy, gradient, mean, square in zip(masters, copies, gradients, means, squares, strict=True):
        wide = gradient.to(torch.float32) * scalars.factor
        new_mean = mean + (wide - mean) * (1 - beta1)
        new_square = square * beta2 + wide * wide * (1 - beta2)
        updated = master * (1 - scalars.rate * decay) - size * new_mean / (new_square.sqrt() / root + epsilon)
        mean.copy_(torch.where(skipped, mean, new_mean))
        square.copy_(torch.where(skipped, square, new_square))
        master.copy_(torch.where(skipped, master, updated))
        copy.copy_(master)


def compiled() -> Callable[..., None]:
    """``adamw_step``, compiled at its first call."""
    return torch.compile(adamw_step, dynamic=False)  # type: ignore[no-any-return]


class CompiledAdamW:
    """Updates weights and copies with the state, and the options, of torch's AdamW, which stays the run's optimizer."""

    def __init__(
        self, optimizer: torch.optim.AdamW, update: Callable[..., None], failed: Callable[[BaseException], None]
    ) -> None:
        """
        Args:
            update: ``adamw_step``, or ``compiled()``.
            failed: called once, when ``update`` cannot be compiled.
        """
        self._optimizer, self._update, self._failed = optimizer, update, failed
        self._works = True

    @torch.no_grad()
    def __call__(self, master_of: Mapping[nn.Parameter, nn.Parameter], factor: float) -> list[nn.Parameter]:
        """Update the weights whose copies have a gradient, and drop these gradients.

        Args:
            master_of: master weight of each copy.
            factor: for the gradients, beside what the optimizer's ``grad_scale`` says (see torch's GradScaler).

        Returns:
            The master weights that were updated, and their copies with them: all, or fewer if it does not work here.

        Raises:
            RuntimeError: memory ran out, or the device was lost.
        """
        copies = {master: copy for copy, master in master_of.items() if copy.grad is not None}
        done: list[nn.Parameter] = []
        for group in self._optimizer.param_groups:
            masters = [one for one in group["params"] if one in copies]
            if self._works and masters:
                self._works = self._group(group, masters, [copies[master] for master in masters], factor)
                done += masters if self._works else []
        for master in done:
            copies[master].grad = None
        return done

    def _group(
        self, group: dict[str, Any], masters: list[nn.Parameter], copies: list[nn.Parameter], factor: float
    ) -> bool:
        states = [self._state(master) for master in masters]
        counts = [state["step"] for state in states]
        scalars = self._scalars(group, counts[0], factor)
        given = (
            [master.detach() for master in masters],
            [copy.detach() for copy in copies],
            [_like(copy.grad, master) for copy, master in zip(copies, masters, strict=True)],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
        )
        try:
            self._update(*given, scalars, group["betas"], group["eps"], group["weight_decay"])
        except Exception as error:  # a compiler fails in many ways
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            self._failed(error)
            return False
        torch._foreach_add_(counts, scalars.taken)
        return True

    def _state(self, master: nn.Parameter) -> dict[str, Any]:
        """A weight's state, as torch's fused AdamW makes it."""
        state = self._optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(master, memory_format=torch.preserve_format)
        return state

    def _scalars(self, group: dict[str, Any], count: torch.Tensor, factor: float) -> StepScalars:
        optimizer: Any = self._optimizer
        scale, skip = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        one = torch.ones((), device=count.device)
        taken = one if skip is None else one - skip
        multiply = one * factor if scale is None else factor / scale
        return StepScalars(one * float(group["lr"]), multiply, taken, count + taken)


def _like(gradient: Any, master: torch.Tensor) -> torch.Tensor:
    """A gradient in the usual memory format, as master weights are; the copies may be channels last."""
    return gradient if gradient.stride() == master.stride() else gradient.contiguous()
