"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.families.layers import Layers


@cache
def recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of modules as one checkpointed layer: only its input is kept."""

    def forward(self: nn.Module, conditioning: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return kind.forward(self, conditioning)
        again = partial(kind.forward, self)
        return checkpoint(again, conditioning, use_reentrant=False, preserve_rng_state=False)

    return type(f"Recomputed{kind.__name__}", (kind,), {"forward": forward, "is_recomputed": True})


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
        encoder = control_net.get_submodule(layers.control_encoder) if layers.control_encoder else None
        if encoder is not None and not hasattr(encoder, "is_recomputed"):
            encoder.__class__ = recomputed(encoder.__class__)
    if scope == "both":
        denoiser.enable_gradient_checkpointing()
