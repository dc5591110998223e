"""The average of the weights, and using it for a while. How much each step weighs is diffusers' EMAModel's business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from engine.config import OptimConfig

AT_ONCE = 2**24
"""Numbers that are averaged together (64 MiB), so that a step of the average needs little beside the average itself."""


class Average(EMAModel):
    """diffusers' average, bit for bit, but some weights at a time; it may be in RAM while the net is on a card.

    A step that breaks off for want of memory can be asked for again: it goes on with the weights that it has not come
    to, so that none is averaged twice. All the memory of a part is taken before the first of its weights changes.
    """

    optimization_step: int
    _come_to = 0
    """Weights that the step has done already which broke off; 0: none has."""

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Take in the weights as they are now; all of them learn."""
        weights = list(parameters)
        decay = self.get_decay(self.optimization_step + 1)
        for part in self._parts():
            averages = self.shadow_params[part]
            beside = [
                weight.detach().to(average.device) for weight, average in zip(weights[part], averages, strict=True)
            ]
            torch._foreach_sub_(averages, torch._foreach_sub(averages, beside), alpha=1 - decay)
            self._come_to = part.stop
        self.optimization_step, self.cur_decay_value, self._come_to = self.optimization_step + 1, decay, 0

    def _parts(self) -> Iterator[slice]:
        """Those that are left, in order, as many together as AT_ONCE allows and one at least."""
        first, size = self._come_to, 0
        for place in range(first, len(self.shadow_params)):
            if place > first and size + self.shadow_params[place].numel() > AT_ONCE:
                yield slice(first, place)
                first, size = place, 0
            size += self.shadow_params[place].numel()
        yield slice(first, len(self.shadow_params))

    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give these weights the average; nothing but the weights themselves is on the card for it."""
        torch._foreach_copy_([parameter.data for parameter in parameters], self.shadow_params)


def averaged_names(model: torch.nn.Module) -> list[str]:
    """Names of the weights that have an average: those that learn. Of the others it would be a copy."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def averaged_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights themselves, in the same order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_average(model: torch.nn.Module, config: OptimConfig) -> Average | None:
    """The average of the weights of the net that learn; None where the config wants none."""
    if config.ema_decay <= 0:
        return None
    average = Average(averaged_parameters(model), decay=config.ema_decay, foreach=True)
    if config.ema_device == "cpu":
        average.to("cpu")
    return average


@contextmanager
def averaged_weights(ema: Any, model: torch.nn.Module) -> Iterator[None]:
    """Within the block ``model`` has the averaged weights; afterwards its own, bit for bit."""
    parameters = averaged_parameters(model)
    ema.store(parameters)
    try:
        ema.copy_to(parameters)
        yield
    finally:
        ema.restore(parameters)
