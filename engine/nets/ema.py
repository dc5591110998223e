"""Exponential moving average (EMA) of the weights. The decay of each step is that of diffusers' EMAModel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from engine.config import OptimConfig

AT_ONCE = 2**24
"""Numbers that are averaged together (64 MiB), so that an update needs little memory beside the average itself."""


class EMA(EMAModel):
    """diffusers' average, bit for bit, updated a part at a time; it may be in RAM while the net is on a card.

    An update that runs out of memory can be retried: it continues with the remaining parts, so that no weight is
    averaged twice. All memory of a part is allocated before the first of its weights changes.
    """

    optimization_step: int
    _done = 0
    """Weights that an interrupted update has averaged already."""

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Update the average with the trainable weights as they are now.

        ``get_decay`` warms up: early steps weigh more than the configured decay says.
        """
        weights = list(parameters)
        decay = self.get_decay(self.optimization_step + 1)
        for part in self._parts():
            averages = self.shadow_params[part]
            beside = [
                weight.detach().to(average.device) for weight, average in zip(weights[part], averages, strict=True)
            ]
            torch._foreach_sub_(averages, torch._foreach_sub(averages, beside), alpha=1 - decay)
            self._done = part.stop
        self.optimization_step, self.cur_decay_value, self._done = self.optimization_step + 1, decay, 0

    def _parts(self) -> Iterator[slice]:
        """The remaining weights in order, in groups of up to AT_ONCE numbers, at least one weight each."""
        first, size = self._done, 0
        for place in range(first, len(self.shadow_params)):
            if place > first and size + self.shadow_params[place].numel() > AT_ONCE:
                yield slice(first, place)
                first, size = place, 0
            size += self.shadow_params[place].numel()
        yield slice(first, len(self.shadow_params))

    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Copy the average into these weights, without extra memory on the card."""
        torch._foreach_copy_([parameter.data for parameter in parameters], self.shadow_params)


def ema_names(model: torch.nn.Module) -> list[str]:
    """Names of the averaged weights: the trainable ones."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def ema_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The averaged weights, in the same order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_ema(model: torch.nn.Module, config: OptimConfig) -> EMA | None:
    """The average of the net's trainable weights; None where the config has EMA off."""
    if config.ema_decay <= 0:
        return None
    average = EMA(ema_parameters(model), decay=config.ema_decay, foreach=True)
    if config.ema_device == "cpu":
        average.to("cpu")
    return average


@contextmanager
def ema_weights(ema: Any, model: torch.nn.Module) -> Iterator[None]:
    """Within the block ``model`` has the averaged weights; afterwards its own, bit for bit."""
    parameters = ema_parameters(model)
    ema.store(parameters)
    try:
        ema.copy_to(parameters)
        yield
    finally:
        ema.restore(parameters)
