"""Exponential moving average (EMA) of the weights. The decay of each step is that of diffusers' EMAModel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel

from engine.config import OptimConfig
from engine.machine.capabilities import capabilities
from engine.machine.device import is_card, wait_for

AT_ONCE = 2**24
"""Numbers that are averaged together (64 MiB), so that an update needs little memory beside the average itself."""


class EMA(EMAModel):
    """diffusers' average, bit for bit, updated a part at a time; it may be in RAM while the net is on a card.

    An update that runs out of memory can be retried: it continues with the remaining parts, so that no weight is
    averaged twice. All memory of a part is allocated before the first of its weights changes.
    """

    optimization_step: int
    every = 1
    """The average is updated at each multiple of this number of steps, with the decay of all of them."""
    _done = 0
    """Weights that an interrupted update has averaged already."""

    @torch.no_grad()
    def step(
        self,
        parameters: Iterable[torch.nn.Parameter],
        read: Callable[[list[torch.nn.Parameter]], list[torch.Tensor]] | None = None,
    ) -> None:
        """One more step is done: update the average with the trainable weights as they are now, if it is due.

        ``get_decay`` warms up: early steps weigh more than the configured decay says.

        Args:
            read: the values of some of the parameters, where they are not simply these.
        """
        step = self.optimization_step + 1
        if step % self.every == 0:
            decay = math.prod(self.get_decay(step - back) for back in range(self.every))
            weights = list(parameters)
            for part in self._parts():
                now = read(weights[part]) if read else [weight.detach() for weight in weights[part]]
                _average(self.shadow_params[part], now, decay)
                self._done = part.stop
            self.cur_decay_value, self._done = decay, 0
        self.optimization_step = step

    def _parts(self) -> Iterator[slice]:
        """The remaining weights in order, in groups of up to AT_ONCE numbers, at least one weight each."""
        first, size = self._done, 0
        for place in range(first, len(self.shadow_params)):
            if place > first and size + self.shadow_params[place].numel() > AT_ONCE:
                yield slice(first, place)
                first, size = place, 0
            size += self.shadow_params[place].numel()
        yield slice(first, len(self.shadow_params))


def _average(averages: list[torch.Tensor], weights: list[torch.Tensor], decay: float) -> None:
    beside = _beside(averages, weights)
    if decay > 0.5:  # the bits of the other form, in half of its memory traffic
        torch._foreach_lerp_(averages, beside, 1 - decay)
    else:
        torch._foreach_sub_(averages, torch._foreach_sub(averages, beside), alpha=1 - decay)


def _beside(averages: list[torch.Tensor], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """The weights where their averages are. From a card they come through pinned memory, which copies at full speed."""
    pinned_copies = capabilities(weights[0].device.type).pinned_memory and not is_card(averages[0].device)
    if not pinned_copies:
        return [weight.to(average.device) for weight, average in zip(weights, averages, strict=True)]
    pinned = [torch.empty_like(average, pin_memory=True) for average in averages]
    torch._foreach_copy_(pinned, weights, non_blocking=True)
    wait_for(weights[0].device)
    return pinned


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
    average.every = config.ema_every
    if config.ema_device == "cpu":
        average.to("cpu")
    return average


@contextmanager
def ema_weights(ema: EMA, model: torch.nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Within the block the trainable weights of ``model`` are the averaged ones. No weight is copied.

    Args:
        device: where to compute with them; None: they are only read, where the average is.
    """
    parameters = ema_parameters(model)
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, average in zip(parameters, ema.shadow_params, strict=True):
            parameter.data = average.to(device or average.device)
        yield
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            parameter.data = data
