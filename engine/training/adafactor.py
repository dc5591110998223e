"""Adafactor with our own learning rate (Shazeer and Stern 2018, arXiv 1804.04235), many weights per kernel.

The rule is that of transformers' Adafactor with ``scale_parameter=False, relative_step=False`` and without a first
moment, to rounding, under the same names of the state. That one loops over the weights, with 20 to 25 kernels for each,
most of which read and write a whole gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

EPS = 1e-30  # added to squared gradients
CLIP = 1.0  # largest root mean square of an update, before the learning rate
DECAY_RATE = 0.8  # the running averages of step t (from 1) keep 1 - t^-0.8 of what they were
AT_ONCE = 2**25
"""Numbers that are updated together (128 MiB), so that a step needs little memory beside gradients and state."""

ROW, COLUMN, WHOLE = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"
AXES = ((ROW, -1), (COLUMN, -2))
"""The axis over which each average of a factored weight is taken."""


class Adafactor(torch.optim.Optimizer):
    """For weights with two or more axes it keeps row and column means of squared gradients, not one value per number.

    Weights are updated in parts. All memory of a part is allocated before the first of its weights changes, and a
    weight's count of steps rises together with it.
    """

    def __init__(self, groups: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for part in self._parts([p for p in group["params"] if p.grad is not None]):
                self._update(part, group["lr"], group["weight_decay"])

    def _parts(self, parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
        """Up to AT_ONCE numbers, at least one weight, all factored or none, all with the same count of steps."""
        part: list[torch.nn.Parameter] = []
        kind, size = None, 0
        for parameter in parameters:
            own = (parameter.ndim >= 2, self.state[parameter].get("step", 0))
            if part and (own != kind or size + parameter.numel() > AT_ONCE):
                yield part
                part, size = [], 0
            kind, size = own, size + parameter.numel()
            part.append(parameter)
        if part:
            yield part

    def _update(self, part: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        step = int(self.state[part[0]].get("step", 0)) + 1
        share = step**-DECAY_RATE
        gradients = [p.grad.float() for p in part if p.grad is not None]
        if part[0].ndim < 2:
            states = {WHOLE: self._averaged(part, WHOLE, gradients, [1] * len(part), share)}
            updates = torch._foreach_rsqrt(states[WHOLE])
            torch._foreach_mul_(updates, gradients)
            factors = _step_sizes(updates, part, lr)
        else:
            rows, columns = (self._averaged(part, name, *_lengths(gradients, dim), share) for name, dim in AXES)
            states = {ROW: rows, COLUMN: columns}
            # The update is gradient / sqrt(row * column / mean of the row). Here its columns are scaled; its rows and
            # its length, which follows from the lengths of the rows, when it is added to the weight.
            scales = torch._foreach_rsqrt(columns)
            updates = [g * scale.unsqueeze(-2) for g, scale in zip(gradients, scales, strict=True)]
            factors = [row / row.mean(dim=-1, keepdim=True) for row in rows]
            torch._foreach_rsqrt_(factors)
            lengths, _ = _lengths(updates, -1)
            torch._foreach_mul_(lengths, factors)
            torch._foreach_mul_(factors, _step_sizes(lengths, part, lr))
            factors = [factor.unsqueeze(-1) for factor in factors]
        # From here on nothing is allocated.
        if weight_decay:
            torch._foreach_add_(part, part, alpha=-weight_decay * lr)
        for index, parameter in enumerate(part):
            parameter.addcmul_(updates[index], factors[index], value=-1)
            self.state[parameter] = {"step": step, **{name: kept[index] for name, kept in states.items()}}

    def _averaged(
        self, part: list[torch.nn.Parameter], name: str, roots: list[torch.Tensor], counts: list[int], share: float
    ) -> list[torch.Tensor]:
        """The running averages with a ``share`` of the new mean squares: roots squared, divided by the counts."""
        if share == 1:  # in the first step there are none yet
            averages = list(torch._foreach_mul(roots, roots))
            torch._foreach_mul_(averages, [1 / count for count in counts])
        else:
            averages = list(torch._foreach_mul([self.state[p][name] for p in part], 1 - share))
            torch._foreach_addcmul_(averages, roots, roots, [share / count for count in counts])
        torch._foreach_add_(averages, share * EPS)
        return averages


def _lengths(tensors: list[torch.Tensor], dim: int) -> tuple[list[torch.Tensor], list[int]]:
    """Lengths along an axis, and how many numbers are in each."""
    return [_length(tensor, dim) for tensor in tensors], [tensor.shape[dim] for tensor in tensors]


def _length(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    if tensor.is_cpu:  # whose kernel of the norm is ten times as slow along any axis but the last
        return (tensor * tensor).sum(dim).sqrt_()
    return torch.linalg.vector_norm(tensor, dim=dim)  # one pass, without memory for all squares


def _step_sizes(parts: list[torch.Tensor], weights: list[torch.nn.Parameter], lr: float) -> list[torch.Tensor]:
    """The learning rate for each weight, less where the update, whose norm ``parts`` have, would be too long."""
    lengths = torch._foreach_norm(parts)
    torch._foreach_mul_(lengths, [1 / (CLIP * weight.numel() ** 0.5) for weight in weights])
    return list(torch.stack(lengths).clamp_(min=1).reciprocal_().mul_(lr).unbind())
