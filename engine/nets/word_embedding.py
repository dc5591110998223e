"""A token embedding of which only the rows of a new word are trained (Gal et al. 2022, arXiv 2208.01618).

The other rows are frozen tensors that no optimizer has, so neither weight decay nor rounding moves them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class WordEmbedding(nn.Embedding):
    """An embedding whose rows from ``first`` on are ``rows`` (n, width), which may have a dtype of their own."""

    rows: nn.Parameter
    first: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, length) token numbers to (B, length, width)."""
        known, place = super().forward(input), input - self.first
        learned = functional.embedding(place.clamp(0, len(self.rows) - 1), self.rows).to(known.dtype)
        return torch.where(((place >= 0) & (place < len(self.rows)))[..., None], learned, known)


def train_rows(encoder: Any, first: int, count: int) -> nn.Parameter:
    """Freeze a text encoder, in place, except for rows ``first`` to ``first + count`` of its token embedding.

    Returns:
        Those rows, fp32 (count, width). They begin as they are.
    """
    encoder.requires_grad_(False)
    layer: Any = encoder.get_input_embeddings()
    layer.__class__, layer.first = WordEmbedding, first
    layer.rows = nn.Parameter(layer.weight[first : first + count].detach().float().clone())
    return layer.rows
