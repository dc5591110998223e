"""A LoRA: low-rank factors beside the layers of the denoiser, and of text encoders if wanted; the base is frozen."""

from __future__ import annotations

from typing import Any

from engine.config import RunConfig
from engine.families.base import Family
from engine.families.embedding_files import parts_by_folder
from engine.families.text_names import text_layer_name
from engine.nets.base_lora import Factors, add_factors, from_file
from engine.runs.checkpoints import AVERAGED_LORA, LORA
from engine.tuning.layer_adapter import LayerAdapter
from engine.tuning.learned_text import LearnedText
from engine.tuning.trainable import Placement

TEXT_LAYERS = r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"
"""Layers of CLIP's text encoders that a LoRA changes, as kohya's scripts choose them."""


class BaseLora(LayerAdapter):
    """Adds low-rank factors to layers of the denoiser, and of text encoders that learn."""

    files = LORA, AVERAGED_LORA
    from_file = staticmethod(from_file)

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
        self._text, self._rank = text, tuning.rank
        self.metadata = family.facts.lora_metadata(tuning.rank, config.data.resolution)
        super().__init__(Factors(factors, shares), list(factors.values()), denoiser, place)

    @property
    def learned_text(self) -> LearnedText | None:
        return self._text

    def description(self, precision: str) -> dict[str, Any]:
        return {"lora": {"rank": self._rank, "text": self._text is not None}}
