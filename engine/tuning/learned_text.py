"""The text encoders of a run in which words or text encoders are trained: captions are encoded in each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.base import Family
from engine.families.embedding_files import add_tokens, parts_by_folder, taken_token
from engine.families.text import TextOptions
from engine.tuning.facts import facts_of


class LearnedText:
    """Tokenizers and text encoders that stay in memory while a run trains."""

    def __init__(self, family: Family, tokenizer: Any, encoder: Any, options: TextOptions) -> None:
        """
        Args:
            tokenizer: with the new word, if there is one.
            encoder: where and in what precision it computes.
        """
        self._family, self._options = family, options
        self.tokenizer, self.encoder = tokenizer, encoder

    def parts(self) -> dict[str, Any]:
        """The text encoders by their folders in the base."""
        return parts_by_folder(self._family, "text_encoder", self.encoder)

    def encode(self, numbers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Embeddings of token numbers (B, chunks, length), with gradients for what is trained."""
        return self._family.encode_numbers(self.encoder, numbers, self._options.clip_skip)

    def numbers_of(self, prompt: str) -> dict[str, torch.Tensor]:
        """Token numbers (1, chunks, length) of a prompt, in as many chunks as it fills."""
        chunks = self._family.count_chunks(self.tokenizer, [prompt])
        return self._family.token_numbers(self.tokenizer, [prompt], chunks)


def tokenizer_of(config: RunConfig, family: Family, base: str) -> Any:
    """The tokenizers of a run in which text learns, with its new word; None where captions are encoded only once.

    Raises:
        UserError: the base knows the word already, or no text can learn in bases of this family.
    """
    if not facts_of(config).learned.text:
        return None
    tokenizer = family.load_tokenizer(base)
    if word := config.tuning.word if config.tuning.what == "word" else "":
        for one in tokenizer if isinstance(tokenizer, list) else [tokenizer]:
            if taken := taken_token(one, word, config.tuning.vectors):
                raise UserError(
                    f"{word} cannot be trained as a new word.",
                    f"The base knows {taken} as a word already, and it would lose its meaning.",
                    f"Choose another word, such as my-{word}.",
                )
            add_tokens(one, word, config.tuning.vectors)
    return tokenizer
