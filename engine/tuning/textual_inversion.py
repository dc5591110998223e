"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): the vectors of a new word are trained; the base is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.config import TuningConfig
from engine.families.base import Family
from engine.families.embedding_files import add_word, parts_by_folder, vector_names
from engine.nets.word_embedding import train_rows
from engine.runs.word_files import AVERAGED_WORD, WORD, word_file
from engine.tuning.controlnet import training_bytes
from engine.tuning.learned_text import LearnedText
from engine.tuning.trainable import Placement, Trainable


class Vectors(nn.Module):
    """The trained vectors of each text encoder, (n, width), under the names that they have in a file."""

    def __init__(self, rows: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, vectors in rows.items():
            self.register_parameter(name, vectors)


class TextualInversion(Trainable):
    """The vectors are a net of their own, ``master``; the text encoders that compute have them in their embedding."""

    def __init__(
        self,
        denoiser: Any,
        family: Family,
        tuning: TuningConfig,
        text: LearnedText,
        place: Placement,
    ) -> None:
        """
        Args:
            denoiser: where and in what it computes; it is frozen.
            text: with the base's own tokenizers and text encoders, which get the word.
        """
        denoiser.requires_grad_(False)
        tokenizers = parts_by_folder(family, "tokenizer", text.tokenizer)
        encoders = parts_by_folder(family, "text_encoder", text.encoder)
        rows: dict[str, nn.Parameter] = {}
        names = vector_names(len(encoders))
        for name, tokenizer, encoder in zip(names, tokenizers.values(), encoders.values(), strict=True):
            vectors = vectors_of_words(tokenizer, encoder, tuning.begun_as, tuning.vectors)
            numbers = add_word(tokenizer, encoder, tuning.word, vectors)
            rows[name] = train_rows(encoder, numbers[0], len(numbers))
        self.text, self._word, self._count = text, tuning.word, tuning.vectors
        self._metadata = family.facts.embedding_metadata(tuning.word)
        self.master, self.weights = place.masters_of(Vectors(rows))
        self.averaged = self.master
        self.weights.compute = denoiser

    @property
    def learned_text(self) -> LearnedText:
        return self.text

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_WORD if average else WORD) / f"{self._word}.safetensors"
        target.parent.mkdir(exist_ok=True)
        tensors = {name: rows.detach().float().cpu().contiguous() for name, rows in self.master.named_parameters()}
        save_file(tensors, target, self._metadata)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(load_file(word_file(folder)))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(word_file(folder, average=True))

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def description(self, precision: str) -> dict[str, Any]:
        return {"word": {"word": self._word, "vectors": self._count}}


@torch.no_grad()
def vectors_of_words(tokenizer: Any, encoder: Any, words: str, count: int) -> torch.Tensor:
    """The vectors (count, width) of the tokens of some words, in turn: n vectors of one word begin alike."""
    numbers = tokenizer(words, add_special_tokens=False, truncation=True).input_ids
    weight = encoder.get_input_embeddings().weight
    return torch.stack([weight[numbers[place % len(numbers)]] for place in range(count)]).float()
