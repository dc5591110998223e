"""Which weights learn, and what is computed twice to save memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch.utils.checkpoint import checkpoint


class HintTwice(ControlNetConditioningEmbedding):
    """A hint encoder that keeps the condition map alone, and is computed again in the backward pass."""

    def forward(self, conditioning: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(conditioning)
        return checkpoint(super().forward, conditioning, use_reentrant=False, preserve_rng_state=False)


@torch.no_grad()
def keep_only_middle(controlnet: Any) -> None:
    """Silence every way of the net into the base but that at its middle, for good: zero, and never learning.

    ``only_mid_control`` of the original code. As the silence is in the weights, the net draws alike wherever it goes.
    """
    for parameter in controlnet.controlnet_down_blocks.parameters():
        parameter.zero_()
        parameter.requires_grad_(False)


def checkpoint_gradients(controlnet: Any, unet: Any, scope: str) -> None:
    """Keep only the inputs of layers for the backward pass: in no net, the ControlNet, or both.

    Chen et al. 2016, arXiv 1604.06174. Gradients are the same to the last bit. The hint encoder, which diffusers leaves
    out, is one layer: it works at the image's full size and costs next to nothing to compute again.
    """
    if scope != "none":
        controlnet.enable_gradient_checkpointing()
        controlnet.controlnet_cond_embedding.__class__ = HintTwice
    if scope == "both":
        unet.enable_gradient_checkpointing()


def decoder_of(unet: Any) -> torch.nn.ModuleDict:
    """The half of the UNet that the control flows into; its weights, not copies."""
    return torch.nn.ModuleDict({name: getattr(unet, name) for name in ("up_blocks", "conv_norm_out", "conv_out")})


def learning_decoder(unet: Any, dtype: torch.dtype, offload: bool = False) -> torch.nn.ModuleDict:
    """The decoder that learns (``sd_locked=False`` of the original code), fp32: the UNet's own, or beside it.

    Call with the UNet in fp32, before it is brought to the ``dtype`` in which it computes, so that no bit is lost.
    ``offload``: it stays in the computer's memory.
    """
    decoder = decoder_of(unet).requires_grad_(True)
    if dtype == torch.float32 and not offload:
        return decoder
    apart = copy.deepcopy(decoder)
    return apart.cpu() if offload else apart


def what_learns(controlnet: Any, decoder: torch.nn.Module | None) -> torch.nn.Module:
    """The ControlNet, and unless the base is locked its decoder."""
    return controlnet if decoder is None else torch.nn.ModuleList([controlnet, decoder])
