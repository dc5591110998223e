"""The average of the weights, and using it for a while. The averaging itself is diffusers' EMAModel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from engine.config import OptimConfig


class AverageInRam(EMAModel):
    """An average that stays in the computer's memory while the net is on a card."""

    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        super().step([p.detach().to("cpu").requires_grad_(p.requires_grad) for p in parameters])


def averaged_names(model: torch.nn.Module) -> list[str]:
    """Names of the weights that have an average: those that learn. Of the others it would be a copy."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def averaged_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights themselves, in the same order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_average(model: torch.nn.Module, config: OptimConfig) -> Any | None:
    """A diffusers EMAModel of the weights of the net that learn; None where the config wants none."""
    if config.ema_decay <= 0:
        return None
    if config.ema_device == "same":
        return EMAModel(averaged_parameters(model), decay=config.ema_decay, foreach=True)
    average = AverageInRam(averaged_parameters(model), decay=config.ema_decay, foreach=True)
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
