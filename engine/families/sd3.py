"""Stable Diffusion 3 and 3.5: a transformer over image and text tokens, three text encoders, flow matching.

Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", arXiv 2403.03206. Its
ControlNet copies the first blocks. It reads the control image's latents without the shift of the VAE, and zeros in
place of the pooled text: diffusers' pipeline and ComfyUI give them so (``force_zeros_for_pooled_projection``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5TokenizerFast

from engine.families.absent_t5 import is_without_t5, text_for
from engine.families.encoder_sizes import T5_TOKENS
from engine.families.facts import SD3
from engine.families.joint_sizes import control_blocks
from engine.families.parts import load_part, read_component_config
from engine.families.positions import positions_in_ram
from engine.families.residuals import Residuals, spread
from engine.families.sdxl import TwoTextEncoders
from engine.families.stable_diffusion import layer_output, tokenize
from engine.families.t5 import StreamedT5, t5_tokens
from engine.families.text_encoding import Text
from engine.families.transformer import TransformerFamily, with_weights_of
from engine.families.unsupported import BaseParts, is_left_out, other_latents, without_text

TIMESTEPS = 1000
"""The denoiser reads sigmas times this."""


class ThreeTextEncoders(TwoTextEncoders):
    """CLIP ViT-L, OpenCLIP ViT-bigG and, unless the base comes without it, T5."""

    def __init__(self, first: torch.nn.Module, second: torch.nn.Module, third: StreamedT5 | None, width: int) -> None:
        """``width``: of the text that the denoiser reads."""
        super().__init__(first, second)
        self.third, self.width = third, width


class StableDiffusion3(TransformerFamily):
    facts = SD3

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return config.get("_class_name") == "SD3Transformer2DModel"

    def why_unsupported(self, parts: BaseParts) -> str:
        lacking = [part for part in ("text_encoder", "text_encoder_2") if not present(parts.index, part)]
        if lacking:
            return f"Its text encoders {', '.join(lacking)} are missing; only text_encoder_3 (T5) is optional."
        if present(parts.index, "text_encoder_3") and (why := without_text(parts.index, ["tokenizer_3"])):
            return why
        channels = parts.denoiser.get("in_channels", self.latents.channels)
        if channels != self.latents.channels:
            return f"It reads an image in addition to the text ({channels} channels)."
        return other_latents(parts.vae, self.facts)

    # Text

    def load_tokenizer(self, base: str) -> Any:
        tokenizers = [load_part(CLIPTokenizer, base, name, None) for name in ("tokenizer", "tokenizer_2")]
        return [*tokenizers, load_part(T5TokenizerFast, base, "tokenizer_3", None)] if reads_t5(base) else tokenizers

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        first, second = (
            load_part(CLIPTextModelWithProjection, base, name, dtype) for name in ("text_encoder", "text_encoder_2")
        )
        third = StreamedT5.load(base, "text_encoder_3", dtype) if reads_t5(base) else None
        width = int(self.denoiser_config(base)["joint_attention_dim"])
        return ThreeTextEncoders(first, second, third, width).eval().requires_grad_(False)

    def encode_text(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """The hidden states of both CLIPs side by side, padded with zeros to T5's width, then T5's; and pooled text.

        (B, 77 + 256, 4096) and (B, 2048) for the real base. Without T5 one token of zeros stands for all of its
        (absent_t5.py), (B, 77 + 1, 4096).
        """
        device, skipped = text_encoder.device, self.skipped_layers(clip_skip)
        read = [
            encoder(tokenize(one, captions).to(device), output_hidden_states=True)
            for one, encoder in zip(tokenizer, (text_encoder.first, text_encoder.second), strict=False)
        ]
        hidden = torch.cat([layer_output(self.facts, one.hidden_states, 2, skipped) for one in read], dim=-1)
        hidden = torch.nn.functional.pad(hidden, (0, text_encoder.width - hidden.shape[-1]))
        t5 = hidden.new_zeros(len(captions), 1, text_encoder.width)
        if text_encoder.third is not None:
            t5 = text_encoder.third.read(t5_tokens(tokenizer[2], captions, T5_TOKENS), device)
        pooled = torch.cat([one.text_embeds for one in read], dim=-1)
        return {"hidden": torch.cat([hidden, t5.to(hidden.dtype)], dim=1), "pooled": pooled}

    def without_optional_text(self, text: Text, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        if is_without_t5(text["hidden"]):
            return dict(text)
        hidden = text["hidden"].clone()
        hidden[rows, -T5_TOKENS:] = 0
        return {**text, "hidden": hidden}

    # Denoiser and control net

    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        denoiser = load_part(SD3Transformer2DModel, base, self.facts.denoiser, dtype)
        return positions_in_ram(denoiser).eval().requires_grad_(False)

    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> SD3ControlNetModel:
        """The first ``blocks`` blocks; 0: ``facts.usual_blocks``, or fewer for a smaller base.

        diffusers' ``from_transformer`` changes the base's own config, so it is not used.
        """
        blocks = blocks or control_blocks(len(denoiser.transformer_blocks), self.facts.usual_blocks)
        config = {**denoiser.config, "num_layers": blocks, "force_zeros_for_pooled_projection": True}
        net: Any = SD3ControlNetModel.from_config(config, extra_conditioning_channels=0)
        return positions_in_ram(with_weights_of(denoiser, net))

    def empty_controlnet(self, config: dict[str, Any]) -> SD3ControlNetModel:
        return positions_in_ram(super().empty_controlnet(config))

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> SD3ControlNetModel:
        return positions_in_ram(load_part(SD3ControlNetModel, str(folder), "", dtype))

    def control_latents(self, vae: Any, images: torch.Tensor) -> torch.Tensor:
        return self.encode_images(vae, images)[0] * vae.config.scaling_factor

    def decode_control(self, vae: Any, control: torch.Tensor) -> torch.Tensor:
        return self.decode_latents(vae, control - vae.config.shift_factor * vae.config.scaling_factor)

    def residuals(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        control: torch.Tensor,
    ) -> Residuals:
        (outputs,) = self.net_outputs(net, noisy, timesteps, text, control)
        return (spread(outputs, len(denoiser.transformer_blocks)),)

    def net_outputs(
        self, net: Any, noisy: torch.Tensor, timesteps: torch.Tensor, text: Text, control: torch.Tensor
    ) -> tuple[list[torch.Tensor]]:
        return net(
            hidden_states=noisy,
            controlnet_cond=control,
            encoder_hidden_states=text_for(net, text["hidden"]),
            pooled_projections=torch.zeros_like(text["pooled"]),
            timestep=TIMESTEPS * timesteps,
            return_dict=False,
        )

    def denoise(
        self,
        denoiser: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        return denoiser(
            hidden_states=noisy,
            encoder_hidden_states=text_for(denoiser, text["hidden"]),
            pooled_projections=text["pooled"],
            timestep=TIMESTEPS * timesteps,
            block_controlnet_hidden_states=residuals[0] if residuals else None,
            return_dict=False,
        )[0]


def reads_t5(base: str) -> bool:
    """Whether a base has the third text encoder, by its model_index.json; without it, its tokens are zeros."""
    index: Mapping[str, Any] = read_component_config(base, "", "model_index.json")
    return present(index, "text_encoder_3")


def present(index: Mapping[str, Any], part: str) -> bool:
    """Whether a model_index.json lists a part, and not as null."""
    return part in index and not is_left_out(index, part)
