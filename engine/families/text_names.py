"""Names of the layers of text encoders in the files of other programs. No torch."""

from __future__ import annotations

from typing import Any

TEXT_PREFIXES = {
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
"""kohya's prefixes of each text encoder's layers."""


INSIDE_CLIP = ("embeddings.", "encoder.", "final_layer_norm.")


def clip_name(encoder: Any, name: str) -> str:
    """The name that every program has for a tensor or layer of a text encoder. CLIP's begin with ``text_model.``, which
    transformers left out from 5.6 on; other programs do not find such tensors."""
    clip = type(encoder).__name__.startswith("CLIP") and name.startswith(INSIDE_CLIP)
    return f"text_model.{name}" if clip else name


def text_layer_name(encoder: Any, part: str, encoders: int, name: str) -> str:
    """The name that kohya's LoRA files have for a layer of a text encoder.

    Args:
        part: its folder in the base.
        encoders: that the base has.
    """
    prefix = TEXT_PREFIXES[part][-1] if encoders > 1 else TEXT_PREFIXES[part][0]
    return prefix + clip_name(encoder, name).replace(".", "_")
