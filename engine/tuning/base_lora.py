"""A LoRA: low-rank factors beside the layers of the denoiser, and of text encoders if wanted; the base is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.config import RunConfig
from engine.families.base import Family
from engine.families.embedding_files import parts_by_folder
from engine.families.text_names import text_layer_name
from engine.nets.base_lora import Factors, add_factors, from_file
from engine.runs.checkpoints import AVERAGED_LORA, LORA
from engine.tuning.controlnet import training_bytes
from engine.tuning.learned_text import LearnedText
from engine.tuning.trainable import Placement, Trainable

WHY_LIVE = "In this run the base's own layers carry what is trained, and only its present state is in memory."
TEXT_LAYERS = r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"
"""Layers of CLIP's text encoders that a LoRA changes, as kohya's scripts choose them."""


class BaseLora(Trainable):
    """The factors are a net of their own, ``master``; the nets that compute have copies of them in their layers."""

    master: Factors

    def __init__(
        self, denoiser: Any, place: Placement, config: RunConfig, family: Family, text: LearnedText | None = None
    ) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            family: of the base; it says which layers there are, and how files name them.
            text: text encoders that learn, too.
        """
        tuning, seed, layers = config.tuning, config.train.seed, family.layers
        found = add_factors(denoiser, tuning.rank, layers.adapted[tuning.layers], seed)
        factors = {layers.adapted_name(name): layer for name, layer in found.items()}
        shares: dict[str, float] = {}
        if text is not None:
            encoders = parts_by_folder(family, "text_encoder", text.encoder)
            for number, (part, encoder) in enumerate(encoders.items(), 1):
                of_text = add_factors(encoder, tuning.rank, TEXT_LAYERS, seed + number)
                named = {text_layer_name(encoder, part, len(encoders), n): layer for n, layer in of_text.items()}
                factors |= named
                shares |= dict.fromkeys(named, tuning.text_rate / config.optim.learning_rate)
        self._text, self._rank, self._layers = text, tuning.rank, list(factors.values())
        master, self.weights = place.masters_of(Factors(factors, shares))
        assert isinstance(master, Factors)
        self.master = self.averaged = master
        self._metadata = family.facts.lora_metadata(tuning.rank, config.data.resolution)
        self.weights.compute = denoiser

    @property
    def learned_text(self) -> LearnedText | None:
        return self._text

    @contextmanager
    def untrained(self) -> Iterator[None]:
        try:
            for layer in self._layers:
                layer.off = True
            yield
        finally:
            for layer in self._layers:
                layer.off = False

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_LORA if average else LORA)
        target.parent.mkdir(exist_ok=True)
        save_file(self.master.file_tensors(), target, self._metadata)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(from_file(load_file(folder / LORA)))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return from_file(load_file(folder / AVERAGED_LORA))

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def description(self, precision: str) -> dict[str, Any]:
        return {"lora": {"rank": self._rank, "text": self._text is not None}}

    def why_only_live(self) -> str:
        return WHY_LIVE

    def _own_parameters(self) -> list[nn.Parameter]:
        return self.parameters()
