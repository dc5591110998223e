"""LoRA on a frozen net (Hu et al. 2021, arXiv 2106.09685): low-rank factors are trained beside its layers.

A layer adds ``up @ down`` to its own output: alpha equals the rank, so its scale is 1 in every program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from engine.nets.lora import LoraConv2d, LoraLinear

UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"
"""Ends of names in kohya's files, whose names of layers have underscores for dots."""
PEFT_UP, PEFT_DOWN = ".lora_B.weight", ".lora_A.weight"
"""Ends of names in diffusers' files. There is no alpha in them where it equals the rank."""


def add_factors(net: nn.Module, rank: int, names: str, seed: int) -> dict[str, Any]:
    """Give layers of a net low-rank factors in fp32 that add nothing at first. Its own weights are frozen.

    ``up`` is zero, ``down`` is drawn at random: on the processor, so that one seed gives the same on every device.

    Args:
        names: regular expression that the names of these layers contain.

    Returns:
        The layers by name.
    """
    net.requires_grad_(False)
    found: dict[str, Any] = {}
    for name, layer in net.named_modules():
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
    """The factors of all layers as one net; the same parameters as the layers'."""

    def __init__(self, layers: Mapping[str, Any], shares: Mapping[str, float] = MappingProxyType({})) -> None:
        """
        Args:
            layers: by the names that files have for them: kohya's, or diffusers', which have dots.
            shares: of the learning rate, for layers with one of their own.
        """
        super().__init__()
        self._names = {_flat(name): name for name in layers}
        self.rate_shares: dict[str, float] = {}
        """Shares of the learning rate, by parameter; 1 for the others."""
        for name, layer in layers.items():
            for side, factor in (("up", layer.up), ("down", layer.down)):
                self.register_parameter(f"{_flat(name)}__{side}", factor)
                if name in shares:
                    self.rate_shares[f"{_flat(name)}__{side}"] = shares[name]

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The factors under the names of a LoRA file, fp32; in kohya's files with each layer's alpha."""
        found: dict[str, torch.Tensor] = {}
        for parameter, tensor in self.state_dict().items():
            flat, _, side = parameter.rpartition("__")
            name = self._names[flat]
            up, down = (PEFT_UP, PEFT_DOWN) if "." in name else (UP, DOWN)
            found[name + (up if side == "up" else down)] = tensor.detach().float().cpu().contiguous()
            if side == "down" and down == DOWN:
                found[name + ALPHA] = torch.tensor(float(tensor.shape[0]))
        return found


def from_file(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of ``Factors.file_tensors``: names as in a ``Factors``."""
    found = {}
    for name, tensor in tensors.items():
        for ending, side in ((UP, "up"), (DOWN, "down"), (PEFT_UP, "up"), (PEFT_DOWN, "down")):
            if name.endswith(ending):
                found[f"{_flat(name.removesuffix(ending))}__{side}"] = tensor
    return found


def _flat(name: str) -> str:
    return name.replace(".", "_")
