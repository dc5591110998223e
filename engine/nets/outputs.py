"""The outputs of a ControlNet for one fixed input: two nets with the same outputs work the same."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel

Tensors = dict[str, torch.Tensor]


def empty_net(config: dict[str, Any]) -> Any:
    """The net of a config on the meta device: names and shapes, no memory."""
    with init_empty_weights():
        return ControlNetModel.from_config(config)


def net_of(config: dict[str, Any], tensors: Tensors) -> Any:
    """A frozen fp32 net with these weights."""
    net = empty_net(config)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def fixed_outputs(config: dict[str, Any], tensors: Tensors) -> list[torch.Tensor]:
    """The residuals that the net gives to the denoiser, in fp32, for 8 x 8 latents of noise and a control image."""
    net = net_of(config, tensors)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, net.config.in_channels, 8, 8), generator=generator)
    text = torch.randn((1, 8, net.config.cross_attention_dim), generator=generator)
    control = torch.rand((1, net.config.conditioning_channels, 64, 64), generator=generator)
    added = added_conditions(net.config, generator)
    down, middle = net(
        latents, torch.tensor([500]), text, controlnet_cond=control, added_cond_kwargs=added, return_dict=False
    )
    return [*down, middle]


def largest_difference(config: dict[str, Any], first: Tensors, second: Tensors) -> float:
    """Largest difference of the ``fixed_outputs`` of two sets of weights, relative to the strongest output."""
    one, other = fixed_outputs(config, first), fixed_outputs(config, second)
    strongest = max(float(output.abs().max()) for output in one)
    apart = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    return apart / strongest if strongest > 0 else apart


def added_conditions(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor] | None:
    """Pooled text and the six sizes for nets that read them (SDXL, Podell et al. 2023, arXiv 2307.01952); else None."""
    if config.addition_embed_type != "text_time":
        return None
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    return {"text_embeds": torch.randn((1, width), generator=generator), "time_ids": sizes}
