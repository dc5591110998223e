"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch.utils.checkpoint import checkpoint

from engine.families.layers import Layers


class RecomputedControlEncoder(ControlNetConditioningEmbedding):
    """The encoder of the control image, as one checkpointed layer: only its input is kept."""

    def forward(self, conditioning: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(conditioning)
        return checkpoint(super().forward, conditioning, use_reentrant=False, preserve_rng_state=False)


def use_gradient_checkpointing(control_net: Any, denoiser: Any, scope: str, layers: Layers) -> None:
    """Keep only the inputs of layers for the backward pass (Chen et al. 2016, arXiv 1604.06174).

    Gradients are the same to the last bit. diffusers leaves out the control image's encoder, which works at the image's
    full size and costs next to nothing to compute again; here it is one layer.

    Args:
        scope: "none", "controlnet" or "both" (the denoiser, too).
        layers: of the base's family.
    """
    if scope != "none":
        control_net.enable_gradient_checkpointing()
        control_net.get_submodule(layers.control_encoder).__class__ = RecomputedControlEncoder
    if scope == "both":
        denoiser.enable_gradient_checkpointing()
