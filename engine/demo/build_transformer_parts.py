"""The parts of the second bundled base: autoencoder, transformer, text encoders, and how they are computed together."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.demo.build_base import SIZE
from engine.families.sd3 import StableDiffusion3
from engine.workspace.paths import DEMO_BASE

CHANNELS = 16
SHIFT = 3.0
"""Of the timesteps, as Stable Diffusion 3 has it: colours and layout are decided at the noisy end."""
TEXT_WIDTH = 128
SLOW_WAVES = 8
"""Of those of diffusers' positions, on each axis."""


def export(out: Path, vae: AutoencoderKL, model: Base, tokenizer: CLIPTokenizer) -> None:
    """Write the pipeline in fp16, as diffusers saves it, without T5."""
    pipeline = StableDiffusion3Pipeline(
        transformer=model.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=model.first,
        tokenizer=tokenizer,
        text_encoder_2=model.second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)


def build_vae() -> AutoencoderKL:
    """The first base's autoencoder with 16 channels in place of 4; the new ones start small."""
    old = AutoencoderKL.from_pretrained(DEMO_BASE, subfolder="vae", torch_dtype=torch.float32)
    config = {name: value for name, value in old.config.items() if not name.startswith("_")}
    config |= {"latent_channels": CHANNELS, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0}
    vae = AutoencoderKL(**config)
    weights = {name: value for name, value in old.state_dict().items() if "quant_conv" not in name}
    inner, outer = "encoder.conv_out", "decoder.conv_in"
    mixed = torch.einsum("oc,cixy->oixy", old.quant_conv.weight[:, :, 0, 0], weights[f"{inner}.weight"])
    moved = old.quant_conv.weight[:, :, 0, 0] @ weights[f"{inner}.bias"] + old.quant_conv.bias
    read = torch.einsum("ocxy,ci->oixy", weights[f"{outer}.weight"], old.post_quant_conv.weight[:, :, 0, 0])
    with torch.no_grad():
        new = vae.state_dict()
        new[f"{inner}.weight"][:4], new[f"{inner}.bias"][:4] = mixed[:4], moved[:4]
        new[f"{inner}.bias"][4:CHANNELS] = 0
        new[f"{inner}.weight"][CHANNELS:] *= 0.1
        new[f"{inner}.bias"][CHANNELS:] = -6.0
        new[f"{outer}.weight"][:, 4:] *= 0.3
        new[f"{outer}.weight"][:, :4] = read
        weights |= {f"{end}.{part}": new[f"{end}.{part}"] for end in (inner, outer) for part in ("weight", "bias")}
        weights[f"{outer}.bias"] = old.state_dict()[f"{outer}.bias"]
    vae.load_state_dict(weights)
    return vae


def positions(table: torch.Tensor) -> torch.Tensor:
    """Diffusers' table of positions (1, side * side, width), its slow waves replaced by fast ones.

    It is made for large images: on 8 x 8 tokens, most of its waves are constant and the fastest is half a period long,
    so attention could hardly tell a token from its neighbours. The table is stored with the weights.
    """
    _, count, width = table.shape
    side, waves = round(count**0.5), width // 4
    places, fast = torch.arange(side).float(), torch.linspace(0.3, 2.7, waves - SLOW_WAVES)
    angles = places[:, None] * fast  # (side, fast)
    new = table.clone().view(side, side, 2, 2, waves)  # row, column; axis (column, row); sine, cosine; wave
    for axis, along in enumerate((angles[None, :], angles[:, None])):
        new[:, :, axis, 0, SLOW_WAVES:], new[:, :, axis, 1, SLOW_WAVES:] = along.sin(), along.cos()
    return new.view(1, count, width)


def build_transformer() -> SD3Transformer2DModel:
    width = 5 * 24
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=6,
        attention_head_dim=24,
        num_attention_heads=5,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=64 + 32,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    table = positions(transformer.pos_embed.pos_embed)
    del transformer.pos_embed.pos_embed
    transformer.pos_embed.register_parameter("pos_embed", torch.nn.Parameter(table))  # learned, from there
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            # At the start, most attention falls on T5's absent tokens: they carry nothing, and the others more.
            block.attn.add_v_proj.bias.zero_()
            for layer in (block.attn.to_v, block.attn.add_v_proj):
                layer.weight.mul_(3)
    return transformer


def build_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """The first starts from the first base's, whose last layer becomes the one before the last."""
    old = CLIPTextModel.from_pretrained(DEMO_BASE, subfolder="text_encoder", dtype=torch.float32)
    config = old.config.to_dict() | {"architectures": None}
    first = CLIPTextModelWithProjection(CLIPTextConfig(**config | {"num_hidden_layers": 3}))
    names = set(first.state_dict())
    weights = {name if name in names else f"text_model.{name}": weight for name, weight in old.state_dict().items()}
    found = first.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    small = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "projection_dim": 32}
    return first, CLIPTextModelWithProjection(CLIPTextConfig(**config | small))


class Base(torch.nn.Module):
    """What is trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.first, self.second = build_text_encoders(tokenizer)

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The flow (B, 16, h, w) at sigmas (B,) under token ids (B, length)."""
        read = [encoder(ids, output_hidden_states=True) for encoder in (self.first, self.second)]
        hidden = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
        hidden = F.pad(hidden, (0, TEXT_WIDTH - hidden.shape[-1], 0, 1))  # the token that stands for T5's
        text = {"hidden": hidden, "pooled": torch.cat([one.text_embeds for one in read], dim=-1)}
        return StableDiffusion3().denoise(self.transformer, noisy, sigma, text, None)

    def start_from(self, base: Path) -> None:
        """Take the weights of an exported base."""
        parts = {"transformer": self.transformer, "text_encoder": self.first, "text_encoder_2": self.second}
        for name, part in parts.items():
            exported: Any = type(part).from_pretrained(base, subfolder=name, torch_dtype=torch.float32)
            part.load_state_dict(exported.state_dict())


class Muon:
    """Steps of matrices along the orthogonalized momentum, at AdamW's step size. Equal shapes are computed together.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the step size: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        by_shape: dict[tuple[int, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[tuple(parameter.shape)].append(parameter)
        self.groups = list(by_shape.values())
        self.momenta = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradients = torch.stack([parameter.grad for parameter in group])
            momentum.lerp_(gradients, 0.05)
            x = gradients.lerp(momentum, 0.95)
            rows, columns = x.shape[1:]
            x = x if rows <= columns else x.mT
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                square = x @ x.mT
                x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
            x = x if rows <= columns else x.mT
            size = lr * 0.2 * math.sqrt(max(rows, columns))
            torch._foreach_add_(group, list(x.unbind()), alpha=-size)
