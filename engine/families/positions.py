"""Positions that the processor keeps or computes for a card: Stable Diffusion 3's table, Flux' angles.

Stable Diffusion 3's table stays in RAM; a card is given the part that an image needs.

The table is made for 384 x 384 tokens, and an image of 1024 px reads the middle 64 x 64. In Stable Diffusion 3.5
Medium it has 226 million numbers, a tenth as many as the transformer. Base, master weights and compute copy have one
each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed
from diffusers.models.transformers.transformer_flux import FluxPosEmbed

from engine.machine.capabilities import capabilities


class PatchEmbedInRam(PatchEmbed):
    """diffusers' layer from latents to tokens, whose table does not follow it to a device. Outputs are the same."""

    _crop: tuple[Any, torch.Tensor, torch.Tensor] | None = None
    """What the last image has read: size, device and version of the table; the table; the part."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PatchEmbedInRam:
        table = self._buffers.pop("pos_embed")
        try:
            super()._apply(fn, recurse)
        finally:
            self._buffers["pos_embed"] = table
        return self

    def cropped_pos_embed(self, height: int, width: int) -> torch.Tensor:
        """The middle of the table for latents of this size, (1, tokens, channels), where the layer's weights are."""
        table, device = self.pos_embed, self.proj.weight.device
        key = (height, width, device, table._version)
        if self._crop is None or self._crop[0] != key or self._crop[1] is not table:
            self._crop = key, table, super().cropped_pos_embed(height, width).to(device)
        return self._crop[2]


def positions_in_ram(net: Any) -> Any:
    """A transformer or its ControlNet, changed in place: its table stays where it is when the net is moved."""
    if type(net.pos_embed) is PatchEmbed and net.pos_embed.pos_embed_max_size:
        net.pos_embed.__class__ = PatchEmbedInRam
    return net


class FluxPosEmbedInFp64(FluxPosEmbed):
    """diffusers' layer from positions to angles, which needs fp64, also for cards without it. Outputs are the same."""

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if capabilities(ids.device.type).fp64:
            return super().forward(ids)
        cos, sin = super().forward(ids.cpu())
        return cos.to(ids.device), sin.to(ids.device)


def angles_in_fp64(net: Any) -> Any:
    """Flux' transformer or its ControlNet, changed in place: it runs on cards that have no fp64, too."""
    if type(net.pos_embed) is FluxPosEmbed:
        net.pos_embed.__class__ = FluxPosEmbedInFp64
    return net
