"""LoRA on a frozen denoiser (Hu et al. 2021, arXiv 2106.09685): low-rank factors are trained beside its layers.

A layer adds ``up @ down`` to its own output: alpha equals the rank, so its scale is 1 in every program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.nets.lora import LoraConv2d, LoraLinear

UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"


def add_factors(denoiser: nn.Module, rank: int, names: str, seed: int) -> dict[str, Any]:
    """Give layers of a denoiser low-rank factors in fp32 that add nothing at first. Its own weights are frozen.

    ``up`` is zero, ``down`` is drawn at random: on the processor, so that one seed gives the same on every device.

    Args:
        names: regular expression that the names of these layers contain.

    Returns:
        The layers by name.
    """
    denoiser.requires_grad_(False)
    found: dict[str, Any] = {}
    for name, layer in denoiser.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(names, name):
            found[name] = layer
    generator = torch.Generator().manual_seed(seed)
    for layer in found.values():
        weight = layer.weight
        down = torch.empty((rank, *weight.shape[1:]))
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        layer.__class__ = LoraLinear if isinstance(layer, nn.Linear) else LoraConv2d
        layer.up = nn.Parameter(torch.zeros((weight.shape[0], rank, *[1] * (weight.ndim - 2)), device=weight.device))
        layer.down = nn.Parameter(down.to(weight.device))
    return found


class Factors(nn.Module):
    """The factors of all layers as one net; the same parameters as the layers'. Names have underscores for dots."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.register_parameter(f"{_flat(name)}__up", layer.up)
            self.register_parameter(f"{_flat(name)}__down", layer.down)

    def file_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """The factors under the names of a LoRA file, fp32, with each layer's alpha.

        Args:
            prefix: before the names of layers, which have underscores for dots, as kohya's scripts write them.
        """
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.state_dict().items():
            layer, _, side = name.rpartition("__")
            found[f"{prefix}{layer}{UP if side == 'up' else DOWN}"] = tensor.detach().float().cpu().contiguous()
            if side == "down":
                found[f"{prefix}{layer}{ALPHA}"] = torch.tensor(float(tensor.shape[0]))
        return found


def from_file(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of ``Factors.file_tensors``: names as in a ``Factors``."""
    found = {}
    for name, tensor in tensors.items():
        for ending, side in ((UP, "__up"), (DOWN, "__down")):
            if name.endswith(ending):
                found[name.removeprefix(prefix).removesuffix(ending) + side] = tensor
    return found


def _flat(name: str) -> str:
    return name.replace(".", "_")
