"""T5, the text encoder of transformer bases beside CLIP. T5-XXL stays in RAM; a card is given one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import cpu_offload
from transformers import T5EncoderModel

from engine.families.parts import load_part, read_component_config

LARGE = 10**8


class StreamedT5:
    """T5's encoder. It is no module, so that ``to`` of a module that holds it leaves it in RAM."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.encoder = encoder
        self._streams_to: torch.device | None = None

    @classmethod
    def load(cls, base: str, part: str, dtype: torch.dtype) -> StreamedT5:
        """The encoder of a base, frozen; one of real size in bf16, in which it takes 9 GiB."""
        config = read_component_config(base, part, "config.json")
        encoder = load_part(T5EncoderModel, base, part, torch.bfloat16 if is_large(config) else dtype)
        return cls(encoder.eval().requires_grad_(False))

    def read(self, tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Hidden states (B, length, width) of token numbers (B, length), computed on a device."""
        if device.type != "cpu" and self._streams_to != device:
            cpu_offload(self.encoder, execution_device=device)
            self._streams_to = device
        return self.encoder(tokens.to(device))[0]


def t5_tokens(tokenizer: Any, captions: Sequence[str], length: int) -> torch.Tensor:
    """Token numbers (B, length) of captions, padded or cut off. Padding is read like any token: there is no mask."""
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(captions), **options).input_ids


def is_large(t5: Mapping[str, Any]) -> bool:
    """Whether a T5 of this config is too large for fp32: the real one has 4.8 billion parameters."""
    return int(t5["d_model"]) * int(t5["d_ff"]) * int(t5["num_layers"]) > LARGE
