"""Stable Diffusion XL: two text encoders, a pooled text vector, and numbers for the image's size and crop.

Podell et al. 2023, arXiv 2307.01952, section 2.2. Its VAE overflows in fp16, so every VAE runs in fp32 here; a VAE that
was repaired for fp16 gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLControlNetImg2ImgPipeline, StableDiffusionXLControlNetPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.families.facts import SDXL
from engine.families.parts import load_part
from engine.families.stable_diffusion import StableDiffusion, layer_output
from engine.families.text_encoding import Text


class TwoTextEncoders(torch.nn.Module):
    """CLIP ViT-L and OpenCLIP ViT-bigG, moved together."""

    def __init__(self, first: torch.nn.Module, second: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class StableDiffusionXL(StableDiffusion):
    facts = SDXL
    pipeline_class = StableDiffusionXLControlNetPipeline
    image_pipeline_class = StableDiffusionXLControlNetImg2ImgPipeline
    # The empty prompt is encoded like any other, as in training and in other programs.
    pipeline_options = {"force_zeros_for_empty_prompt": False, "add_watermarker": False}

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return {"text_encoder", "text_encoder_2"} <= index.keys() and config.get("addition_embed_type") == "text_time"

    def load_tokenizer(self, base: str) -> Any:
        return [load_part(CLIPTokenizer, base, name, None) for name in ("tokenizer", "tokenizer_2")]

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        first = load_part(CLIPTextModel, base, "text_encoder", dtype)
        second = load_part(CLIPTextModelWithProjection, base, "text_encoder_2", dtype)
        return TwoTextEncoders(first, second).eval().requires_grad_(False)

    def encode_tokens(
        self, text_encoder: Any, tokens: Sequence[torch.Tensor], skipped: int = 0
    ) -> dict[str, torch.Tensor]:
        """Both encoders' last hidden states but one, side by side (B, length, 2048), and the pooled text (B, 1280).

        Clip skip moves to earlier layers in both. The pooled text always comes from the last.
        """
        first, second = (
            encoder(numbers.to(text_encoder.device), output_hidden_states=True)
            for numbers, encoder in zip(tokens, (text_encoder.first, text_encoder.second), strict=True)
        )
        hidden = torch.cat(
            [layer_output(self.facts, read.hidden_states, 2, skipped) for read in (first, second)], dim=-1
        )
        return {"hidden": hidden, "pooled": second.text_embeds}

    def size_conditions(self, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        """All six numbers: the paper's size and crop conditioning."""
        return {"time_ids": sizes}

    def added_conditions(self, text: Text) -> dict[str, Any]:
        return {"added_cond_kwargs": {"text_embeds": text["pooled"], "time_ids": text["time_ids"]}}

    def pipeline_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        encoders, tokenizers = parts["text_encoder"], parts["tokenizer"]
        return {
            **parts,
            "text_encoder": encoders and encoders.first,
            "text_encoder_2": encoders and encoders.second,
            "tokenizer": tokenizers and tokenizers[0],
            "tokenizer_2": tokenizers and tokenizers[1],
        }

    def prompt_arguments(self, text: Text, negative: Text) -> dict[str, torch.Tensor]:
        return {
            **super().prompt_arguments(text, negative),
            "pooled_prompt_embeds": text["pooled"],
            "negative_pooled_prompt_embeds": negative["pooled"],
        }
