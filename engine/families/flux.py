"""FLUX.1 [dev] and its fine-tunes: blocks with two streams, then with one; CLIP and T5; the guidance scale as an input.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux. The base was distilled from classifier-free guidance:
it reads the guidance scale and predicts once. Its ControlNet copies the first blocks and reads the guidance scale, too.
In training the scale differs from image to image, so that the net holds for any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5TokenizerFast

from engine.errors import UserError
from engine.families.control_files import MODE
from engine.families.encoder_sizes import LONG_T5_TOKENS
from engine.families.facts import FLUX
from engine.families.parts import load_part, read_component_config
from engine.families.positions import angles_in_fp64
from engine.families.residuals import Residuals, spread
from engine.families.stable_diffusion import tokenize
from engine.families.t5 import StreamedT5, t5_tokens
from engine.families.text_encoding import Text
from engine.families.transformer import TransformerFamily, own_config, with_weights_of
from engine.families.unsupported import BaseParts, other_latents, without_text

TEXT_TO_IMAGE = 64
"""Channels of the tokens of a base that draws from text alone: 16 latent channels in squares of 2 x 2."""
LEAST, MOST = 1.0, 7.0
"""Guidance scales in training are drawn evenly between these: as published for FLUX.1-dev-ControlNet-Union-Pro-2.0."""
SHARED = (
    "patch_size",
    "in_channels",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
    "guidance_embeds",
    "axes_dims_rope",
)
"""Entries of the denoiser's config that its ControlNet's has, too."""


class ClipAndT5(torch.nn.Module):
    """CLIP ViT-L for a pooled vector, and T5 for the tokens."""

    def __init__(self, clip: torch.nn.Module, t5: StreamedT5) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Flux(TransformerFamily):
    facts = FLUX

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return config.get("_class_name") == self.facts.denoiser_class

    def why_unsupported(self, parts: BaseParts) -> str:
        channels = parts.denoiser.get("in_channels", TEXT_TO_IMAGE)
        if channels != TEXT_TO_IMAGE:
            return (
                f"It reads an image in addition to the text, like FLUX.1 Fill, Canny and Depth ({channels} channels)."
            )
        if "Kontext" in str(parts.index.get("_class_name")):
            return "It edits images (FLUX.1 Kontext)."
        if not parts.denoiser.get("guidance_embeds"):
            return (
                "It has no input for the guidance scale, like FLUX.1 schnell: it was distilled to draw in 4 steps, "
                "and training at other noise levels undoes that. Choose FLUX.1 dev or a fine-tune of it."
            )
        encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        return without_text(parts.index, encoders) or other_latents(parts.vae, self.facts)

    def default_resolution(self, base: str) -> int:
        """From the VAE's config: the transformer's does not tell."""
        return int(read_component_config(base, "vae", "config.json").get("sample_size", 1024))

    # Text

    def load_tokenizer(self, base: str) -> Any:
        return load_part(CLIPTokenizer, base, "tokenizer", None), load_part(T5TokenizerFast, base, "tokenizer_2", None)

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        clip = load_part(CLIPTextModel, base, "text_encoder", dtype)
        return ClipAndT5(clip, StreamedT5.load(base, "text_encoder_2", dtype)).eval().requires_grad_(False)

    def encode_text(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """T5's hidden states (B, 512, 4096) and CLIP's pooled text (B, 768) for the real base."""
        if self.skipped_layers(clip_skip):
            raise UserError(
                "Clip skip cannot be changed for this base.",
                "Its text comes from T5. From CLIP it reads only the pooled vector, which comes from the last layer.",
                "Set Clip skip to 1.",
            )
        words, sentences = tokenizer
        pooled = text_encoder.clip(tokenize(words, captions).to(text_encoder.device)).pooler_output
        hidden = text_encoder.t5.read(t5_tokens(sentences, captions, LONG_T5_TOKENS), text_encoder.device)
        return {"hidden": hidden, "pooled": pooled}

    def drawn_conditions(self, even: torch.Tensor, guidance: float = 0.0) -> dict[str, torch.Tensor]:
        """A guidance scale for each image."""
        return {"guidance": torch.full_like(even, guidance) if guidance else LEAST + (MOST - LEAST) * even}

    # Denoiser and control net

    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        denoiser = load_part(FluxTransformer2DModel, base, self.facts.denoiser, dtype)
        return angles_in_fp64(denoiser).eval().requires_grad_(False)

    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> FluxControlNetModel:
        """The first ``blocks`` blocks with two streams; 0: ``facts.usual_blocks``, or fewer for a smaller base.

        The control image's embedder starts at zero, as the outputs do.
        """
        blocks = blocks or min(self.facts.usual_blocks, len(denoiser.transformer_blocks))
        shared = {name: denoiser.config[name] for name in SHARED}
        net: Any = FluxControlNetModel(**shared, num_layers=blocks, num_single_layers=0)
        return angles_in_fp64(with_weights_of(denoiser, net))

    def empty_controlnet(self, config: dict[str, Any]) -> FluxControlNetModel:
        return angles_in_fp64(super().empty_controlnet(config))

    def control_for(self, net: Any, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        of_rgb = self.facts.control_files.is_of_rgb(own_config(net))
        return as_rgb(maps) if of_rgb else self.encode_control(maps, vae)

    def for_net(self, config: Mapping[str, Any]) -> Flux:
        return FluxOfRgb() if config and self.facts.control_files.is_of_rgb(config) else self

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> FluxControlNetModel:
        return angles_in_fp64(load_part(FluxControlNetModel, str(folder), "", dtype))

    def residuals(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        control: torch.Tensor,
    ) -> Residuals:
        of_two_streams, of_one = self.net_outputs(net, noisy, timesteps, text, control)
        repeated = self.facts.control_files.is_of_rgb(own_config(net))  # so diffusers and ComfyUI use such nets
        return (
            spread(of_two_streams, len(denoiser.transformer_blocks), repeated),
            spread(of_one, len(denoiser.single_transformer_blocks)),
        )

    def net_outputs(
        self, net: Any, noisy: torch.Tensor, timesteps: torch.Tensor, text: Text, control: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
        config, inputs = own_config(net), self.net_inputs(noisy, timesteps, text)
        if not config.guidance_embeds:
            del inputs["guidance"]
        if config.num_mode is not None:
            mode = config.get(MODE, 0)
            inputs["controlnet_mode"] = torch.full((len(noisy), 1), mode, device=noisy.device)
        hint = control if self.facts.control_files.is_of_rgb(config) else self.latents.pack(control)
        return net(controlnet_cond=hint, **inputs, return_dict=False)

    def denoise(
        self,
        denoiser: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        of_two_streams, of_one = residuals or (None, None)
        if of_one is not None and None in of_one:  # nets without blocks of one stream
            of_one = None
        predicted = denoiser(
            **self.net_inputs(noisy, timesteps, text),
            controlnet_block_samples=of_two_streams,
            controlnet_single_block_samples=of_one,
            return_dict=False,
        )[0]
        return self.latents.unpack(predicted, *noisy.shape[-2:])

    def net_inputs(self, noisy: torch.Tensor, timesteps: torch.Tensor, text: Text) -> dict[str, torch.Tensor]:
        """What denoiser and ControlNet both read: latents as tokens, and where each token is."""
        guidance = text.get("guidance")
        return {
            "hidden_states": self.latents.pack(noisy),
            "timestep": timesteps,
            "guidance": torch.full_like(timesteps, self.facts.usual_guidance) if guidance is None else guidance,
            "encoder_hidden_states": text["hidden"],
            "pooled_projections": text["pooled"],
            "img_ids": places(noisy.shape[-2], noisy.shape[-1], noisy.device),
            "txt_ids": torch.zeros(text["hidden"].shape[-2], 3, device=noisy.device),
        }


class FluxOfRgb(Flux):
    """The same with ControlNets that read RGB control images, as XLabs' do."""

    facts = replace(FLUX, control_is_encoded=False)

    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        return as_rgb(maps)


def as_rgb(maps: torch.Tensor) -> torch.Tensor:
    """RGB control images in -1..1, (B, 3, H, W), from uint8 (B, H, W, 3)."""
    return maps.permute(0, 3, 1, 2).float() / 127.5 - 1


def places(height: int, width: int, device: Any = None) -> torch.Tensor:
    """(h / 2 * w / 2, 3) for latents of h x w: 0, row and column of each token."""
    rows, columns = torch.arange(height // 2, device=device), torch.arange(width // 2, device=device)
    where = torch.zeros(len(rows), len(columns), 3, device=device)
    where[..., 1], where[..., 2] = rows[:, None], columns[None]
    return where.reshape(-1, 3)
