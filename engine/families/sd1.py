"""Stable Diffusion 1.x: one CLIP text encoder, noise prediction. The bundled tiny base is of this family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.base import Family, load_part, read_component_config

SD1_HINT_CHANNELS = (16, 32, 96, 256)
SMALL_HINT_CHANNELS = (8, 16, 32, 64)
SD1_TRUNK = 320


def hint_channels(trunk: int) -> tuple[int, ...]:
    """Widths of the hint encoder: the original's; a small trunk gets a small one (its first layers see full size)."""
    if trunk >= SD1_TRUNK:
        return SD1_HINT_CHANNELS
    return tuple(min(channels, trunk) for channels in SMALL_HINT_CHANNELS)


class StableDiffusion1(Family):
    name = "sd1"
    title = "Stable Diffusion 1.x"
    file_tag = "sd15"

    def matches(self, index: dict[str, Any], unet: dict[str, Any]) -> bool:
        # SD 2.x has the same class names; its linear projections tell it apart.
        return (
            "text_encoder" in index
            and "text_encoder_2" not in index
            and unet.get("_class_name") == "UNet2DConditionModel"
            and unet.get("in_channels", 4) == 4
            and not unet.get("use_linear_projection", False)
        )

    def load_tokenizer(self, base: str) -> Any:
        return load_part(CLIPTokenizer, base, "tokenizer", None)

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(CLIPTextModel, base, "text_encoder", dtype).eval().requires_grad_(False)

    def load_vae(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(AutoencoderKL, base, "vae", dtype).eval().requires_grad_(False)

    def load_unet(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(UNet2DConditionModel, base, "unet", dtype).eval().requires_grad_(False)

    def load_scheduler(self, base: str) -> Any:
        return load_part(DDPMScheduler, base, "scheduler", None)

    def default_resolution(self, base: str) -> int:
        return int(read_component_config(base, "unet", "config.json").get("sample_size", 64)) * self.latent_factor

    def new_controlnet(self, unet: Any) -> ControlNetModel:
        trunk = unet.config["block_out_channels"][0]
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_channels(trunk))
        return controlnet.float()

    def encode_text(self, tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return {"hidden": text_encoder(tokens.input_ids.to(text_encoder.device))[0]}

    def predict(
        self,
        unet: Any,
        controlnet: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        hint: torch.Tensor,
    ) -> torch.Tensor:
        down, middle = controlnet(noisy, timesteps, text["hidden"], controlnet_cond=hint, return_dict=False)
        return unet(
            noisy,
            timesteps,
            text["hidden"],
            down_block_additional_residuals=[residual.to(unet.dtype) for residual in down],
            mid_block_additional_residual=middle.to(unet.dtype),
            return_dict=False,
        )[0]

    def pipeline(self, base: str, controlnet: ControlNetModel, dtype: torch.dtype, **resident: Any) -> Any:
        load: dict[str, Callable[[], Any]] = {
            "vae": lambda: self.load_vae(base, dtype),
            "unet": lambda: self.load_unet(base, dtype),
            "text_encoder": lambda: self.load_text_encoder(base, dtype),
            "tokenizer": lambda: self.load_tokenizer(base),
            "scheduler": lambda: UniPCMultistepScheduler.from_config(self.load_scheduler(base).config),
        }
        pipeline = StableDiffusionControlNetPipeline(
            **{name: resident[name] if name in resident else loader() for name, loader in load.items()},
            controlnet=controlnet,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def prompt_arguments(
        self, text: dict[str, torch.Tensor], negative: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": text["hidden"], "negative_prompt_embeds": negative["hidden"]}
