"""ControlNets whose outputs are zero, for drawing with a base alone through the ControlNet pipelines."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel
from torch import nn


class ZeroControlNet(ControlNetModel):
    """Its outputs are zeros of one number each, which the UNet adds to its own: the same bits as without it."""

    def __init__(self, denoiser: Any) -> None:
        nn.Module.__init__(self)  # without the layers of a real one
        self.register_to_config(global_pool_conditions=False)
        config = denoiser.config
        blocks = len(config["block_out_channels"])
        self.outputs = 1 + blocks * int(config["layers_per_block"]) + blocks - 1
        self.zero = nn.Parameter(torch.zeros((1, 1, 1, 1), dtype=denoiser.dtype, device=denoiser.device), False)

    def forward(self, *_: Any, **__: Any) -> Any:
        """(down residuals, middle residual), each (1, 1, 1, 1)."""
        return [self.zero] * self.outputs, self.zero


class NoControl(nn.Module):
    """The same for a transformer, whose pipeline (``FlowPipeline``) then calls its denoiser alone."""

    nets: tuple[Any, ...] = ()

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.config, self.dtype = denoiser.config, denoiser.dtype


def zero_controlnet_for(denoiser: Any) -> Any:
    """What takes the place of a ControlNet where a denoiser of any family draws without one."""
    return (ZeroControlNet if "block_out_channels" in denoiser.config else NoControl)(denoiser)
