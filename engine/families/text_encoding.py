"""How a base family reads text, and what else conditions its denoiser: a part of the interface ``Family`` (base.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.families.facts import FamilyFacts

Text = Mapping[str, torch.Tensor]
"""Encoded captions: tensors by name, B in front. Only the family knows the names."""


def together(texts: Sequence[Text]) -> dict[str, torch.Tensor]:
    """Encoded captions one behind another: shorter ones (B, length, ...) are filled up with zeros behind."""
    found: dict[str, torch.Tensor] = {}
    for name, first in texts[0].items():
        rows = [text[name] for text in texts]
        longest = max(one.shape[1] for one in rows) if first.ndim > 1 else 0
        found[name] = torch.cat([longer(one, longest) for one in rows])
    return found


def longer(rows: torch.Tensor, length: int) -> torch.Tensor:
    """(B, n, ...) filled up with zeros to (B, length, ...); as it is, if it is not shorter."""
    if rows.ndim < 2 or rows.shape[1] >= length:
        return rows
    return torch.cat([rows, rows.new_zeros(len(rows), length - rows.shape[1], *rows.shape[2:])], dim=1)


class TextEncoding(ABC):
    """Captions to the tensors that the denoiser reads."""

    facts: FamilyFacts
    """Everything that is known without torch."""

    @abstractmethod
    def load_tokenizer(self, base: str) -> Any:
        """The tokenizer (or several)."""

    @abstractmethod
    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        """The text encoder (or several in one module), frozen."""

    @abstractmethod
    def encode_text(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """Encode captions, cut to the tokens that the encoder reads at once. ``clip_skip``: see ``skipped_layers``.

        Raises:
            UserError: the text encoder has fewer layers.
        """

    @abstractmethod
    def encode_long(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], chunks: int, clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """``encode_text`` of captions of any length, in ``chunks`` chunks; what is beyond them is cut off."""

    def token_numbers(self, tokenizer: Any, captions: Sequence[str], chunks: int = 1) -> dict[str, torch.Tensor]:
        """Token numbers of captions for each text encoder, (B, chunks, length). Where ``facts.text_can_learn``."""
        raise NotImplementedError

    def encode_numbers(
        self, text_encoder: Any, numbers: Mapping[str, torch.Tensor], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """``encode_long`` from what ``token_numbers`` returns, with gradients. Where ``facts.text_can_learn``."""
        raise NotImplementedError

    def skipped_layers(self, clip_skip: int) -> int:
        """How many layers earlier than usual the text encoder is read.

        Args:
            clip_skip: the layer, counted from the last as AUTOMATIC1111 does; the usual one for layers behind it.
        """
        return max(0, clip_skip - self.facts.text_layer)

    @abstractmethod
    def chunk_counts(self, tokenizer: Any, captions: Sequence[str]) -> list[int]:
        """Number of chunks in which the text encoder reads each of the captions."""

    def count_chunks(self, tokenizer: Any, captions: Sequence[str]) -> int:
        """Number of chunks in which the text encoder reads the longest of the captions."""
        return max(self.chunk_counts(tokenizer, captions))

    @abstractmethod
    def text_length(self, text: Text) -> int:
        """Tokens of an encoded text, with or without B in front."""

    @abstractmethod
    def repeated_text(self, text: Text, tokens: int) -> dict[str, torch.Tensor]:
        """An encoded text (B, ...) repeated up to ``tokens`` tokens, a multiple of its length.

        The negative prompt has to be as long as a prompt that was read in chunks.
        """

    def without_optional_text(self, text: Text, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """An encoded text in which some rows are as a base without T5 reads them. Others have none: nothing changes.

        Args:
            rows: (B,), bool.
        """
        return dict(text)

    def hidden_from_net(self, text: Text, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """An encoded text of which the control net reads nothing in some rows. Most nets read all: nothing changes.

        Args:
            rows: (B,), bool.
        """
        return dict(text)

    def size_conditions(self, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs of the denoiser made from the images' sizes, by name; none by default.

        Args:
            sizes: (B, 6), from ``engine.data.crop.size_numbers``.
        """
        return {}

    def drawn_conditions(self, even: torch.Tensor, guidance: float = 0.0) -> dict[str, torch.Tensor]:
        """Inputs of the denoiser that training draws anew for each image, by name; none by default.

        Args:
            even: (B,) fp32, drawn evenly from 0..1.
            guidance: a guidance scale for all images; 0: drawn.
        """
        return {}

    def conditioning(
        self,
        text: Text,
        sizes: torch.Tensor,
        dtype: torch.dtype,
        even: torch.Tensor | None = None,
        guidance: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """The argument ``text`` of ``predict``: the encoded captions in ``dtype``, and what else the denoiser reads.

        Args:
            sizes: (B, 6), from ``engine.data.crop.size_numbers``, on the device of ``text``.
            even, guidance: see ``drawn_conditions``; None: the usual values of those inputs.
        """
        rows = {name: tensor.to(dtype) for name, tensor in text.items()} | self.size_conditions(sizes)
        return rows if even is None else rows | self.drawn_conditions(even, guidance)
