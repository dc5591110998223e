"""The outputs of a ControlNet for one fixed input: two nets with the same outputs work the same."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights

from engine.families.facts import of_control_net
from engine.families.registry import by_name
from engine.machine.net_lock import NET_LOCK

Tensors = dict[str, torch.Tensor]


def empty_net(config: dict[str, Any]) -> Any:
    """The net of a config on the meta device: names and shapes, no memory."""
    with NET_LOCK, init_empty_weights():
        return by_name(of_control_net(config).name).empty_controlnet(config)


def net_of(config: dict[str, Any], tensors: Tensors) -> Any:
    """A frozen fp32 net with these weights."""
    net = empty_net(config)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def fixed_outputs(config: dict[str, Any], tensors: Tensors) -> list[torch.Tensor]:
    """The residuals that the net gives to the denoiser, in fp32, for one input of noise, from a fixed seed."""
    family = by_name(of_control_net(config).name)
    return family.control_outputs(net_of(config, tensors), torch.Generator().manual_seed(0))


def largest_difference(config: dict[str, Any], first: Tensors, second: Tensors) -> float:
    """Largest difference of the ``fixed_outputs`` of two sets of weights, relative to the strongest output."""
    one, other = fixed_outputs(config, first), fixed_outputs(config, second)
    strongest = max(float(output.abs().max()) for output in one)
    apart = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    return apart / strongest if strongest > 0 else apart
