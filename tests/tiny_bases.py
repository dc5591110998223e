"""Tiny random pipelines of each family, made in a second. Their autoencoder passes colours through, the rest knows
nothing. Made for images of 64 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from engine.demo import build_base
from engine.families.registry import detect

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


def write_loud_controlnet(base: Path, folder: Path) -> Path:
    """A ControlNet folder (fp32) for a base with a UNet, whose outputs are not zero: as if trained on nothing."""
    family = detect(str(base))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        controlnet = family.new_controlnet(family.load_denoiser(str(base), torch.float32))
        for name, weight in controlnet.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                torch.nn.init.normal_(weight, std=0.2)
    controlnet.save_pretrained(folder)
    return folder


SD3: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 24 + 40,
    "pos_embed_max_size": 12,
    "dual_attention_layers": (0, 1),
    "qk_norm": "rms_norm",
}


def build_sd3(folder: Path, work: Path, t5: bool = True) -> Path:
    """The same shaped like Stable Diffusion 3.5 Medium: flow matching, a transformer, three text encoders.

    Args:
        t5: with the third of them.
    """
    tokenizer = build_base.build_tokenizer(work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = vae_of_16_channels(1.5305, 0.0609)
        config = build_base.build_text_encoder(tokenizer).config.to_dict()
        config |= {"num_hidden_layers": 3}
        widths = ({"hidden_size": 64, "projection_dim": 24}, {"hidden_size": 48, "projection_dim": 40})
        first, second = (CLIPTextModelWithProjection(CLIPTextConfig(**config | width)) for width in widths)
        transformer = SD3Transformer2DModel(**SD3)
        for name, weight in transformer.named_parameters():  # diffusers starts modulations at zero
            if "norm" in name and weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.05)
        third, tokenizer_3 = (t5_encoder(), t5_tokenizer()) if t5 else (None, None)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=third,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)
    return folder


FLUX: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": SD3["joint_attention_dim"],
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


def build_flux(folder: Path, work: Path) -> Path:
    """The same shaped like FLUX.1 dev: flow matching with a shift by tokens, a transformer that reads the guidance."""
    tokenizer = build_base.build_tokenizer(work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = vae_of_16_channels(0.3611, 0.1159)
        config = build_base.build_text_encoder(tokenizer).config.to_dict() | {
            "hidden_size": 24,
            "intermediate_size": 48,
        }
        clip = CLIPTextModel(CLIPTextConfig(**config | {"num_attention_heads": 4}))
        transformer = FluxTransformer2DModel(**FLUX)
        t5 = t5_encoder()
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer(),
    ).save_pretrained(folder)
    return folder


def vae_of_16_channels(scale: float, shift: float) -> AutoencoderKL:
    latents = {"latent_channels": 16, "scaling_factor": scale, "shift_factor": shift, "sample_size": 64}
    no_quant = {"use_quant_conv": False, "use_post_quant_conv": False}
    shared = {name: value for name, value in build_base.build_vae().config.items() if not name.startswith("_")}
    vae = AutoencoderKL(**shared | latents | no_quant)
    build_base.pass_colours_through(vae)
    return vae


def t5_tokenizer() -> Any:
    """T5's tokenizer with a vocabulary of single letters."""
    letters = [(letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,.-0123456789"]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)


def t5_encoder() -> Any:
    config = T5Config(
        vocab_size=64,
        d_model=SD3["joint_attention_dim"],
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


ZIMAGE: dict[str, Any] = {
    "in_channels": 16,
    "dim": 48,
    "n_layers": 6,
    "n_refiner_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 32,
    "axes_dims": [8, 8, 8],
    "axes_lens": [1024, 32, 32],
}


def build_zimage(folder: Path) -> Path:
    """The same shaped like Z-Image: flow matching, a transformer over one stream, Qwen3."""
    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = vae_of_16_channels(0.3611, 0.1159)
        transformer = ZImageTransformer2DModel(**ZIMAGE)
        for filler in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(filler, std=0.5)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
        text_encoder = Qwen3Model(config)
    ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer with a vocabulary of single bytes, and the part of its chat template that is used."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.-0123456789\u0120\u010a", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer
