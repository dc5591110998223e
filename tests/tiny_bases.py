"""Tiny random pipelines of each family, made in a second. Their autoencoder passes colours through, the rest knows
nothing. Made for images of 64 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from engine.demo import build_base

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SD2_UNET = UNET | {"use_linear_projection": True, "attention_head_dim": (2, 4)}
SDXL_UNET = SD2_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 64 + 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 40,
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def build(folder: Path, work: Path, unet: dict[str, Any], schedule: dict[str, Any], two_encoders: bool = False) -> Path:
    """Write a pipeline in diffusers layout, fp32, with seeded weights; ``work`` is for temporary files."""
    tokenizer = build_base.build_tokenizer(work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_base.build_vae()
        build_base.pass_colours_through(vae)
        text_encoder = build_base.build_text_encoder(tokenizer)
        parts: dict[str, Any] = {"unet": UNet2DConditionModel(**unet)}
        if two_encoders:
            config = text_encoder.config.to_dict() | {"hidden_size": 48, "intermediate_size": 96, "projection_dim": 40}
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**config))
            parts["tokenizer_2"] = tokenizer
    parts |= {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    parts["scheduler"] = DDPMScheduler(**SCHEDULE, **schedule)
    if two_encoders:
        StableDiffusionXLPipeline(**parts).save_pretrained(folder)
    else:
        plain = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        StableDiffusionPipeline(**parts, **plain).save_pretrained(folder)
    return folder
