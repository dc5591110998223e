"""What the tests of the transformer families share: encoded captions, control images, and ControlNets that act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from engine.families.base import Family

Net = TypeVar("Net", bound=nn.Module)
FLUX_OUTPUTS, ZIMAGE_OUTPUTS = ("controlnet_",), ("_proj", "x_embedder")
"""Parts of the names of the layers that are zero in a new ControlNet."""


def encoded(family: Family, base: str, captions: Sequence[str]) -> dict[str, torch.Tensor]:
    """Captions, encoded by a base's own text encoders."""
    with torch.no_grad():
        encoder = family.load_text_encoder(base, torch.float32)
        return family.encode_text(family.load_tokenizer(base), encoder, captions)


def randomized(net: Net, parts: tuple[str, ...]) -> Net:
    """Give the weights whose names contain one of ``parts`` random values: a new ControlNet's outputs are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in net.named_parameters():
            if any(part in name for part in parts):
                nn.init.normal_(weight, std=0.2)
    return net.eval()


def maps() -> torch.Tensor:
    """Two control images, uint8 (2, 64, 64, 3)."""
    return torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


class Fused(torch.autograd.Function):
    """What flash attention keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError
