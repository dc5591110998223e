"""What a base model family must be able to do. Shapes: B pictures, H x W pixels, h = H / 8, w = W / 8."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from engine.errors import UserError

# transformers says once per start that it does without torchvision; so do we, on purpose.
logging.getLogger("transformers").setLevel(logging.ERROR)


class Family(ABC):
    """Everything that differs between base models."""

    name: str
    title: str
    file_tag: str
    """What an exported file's name carries, so that AUTOMATIC1111 guesses the right version from it."""
    latent_factor = 8

    @abstractmethod
    def matches(self, index: dict[str, Any], unet: dict[str, Any]) -> bool:
        """Whether a base with this model_index.json and UNet config belongs here."""

    @abstractmethod
    def load_tokenizer(self, base: str) -> Any:
        """The tokenizer (or several)."""

    @abstractmethod
    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module: ...

    @abstractmethod
    def load_vae(self, base: str, dtype: torch.dtype) -> torch.nn.Module: ...

    @abstractmethod
    def load_unet(self, base: str, dtype: torch.dtype) -> torch.nn.Module: ...

    @abstractmethod
    def load_scheduler(self, base: str) -> Any:
        """The training noise schedule (a DDPMScheduler)."""

    @abstractmethod
    def default_resolution(self, base: str) -> int:
        """Side in pixels that the base was made for."""

    @abstractmethod
    def new_controlnet(self, unet: torch.nn.Module) -> ControlNetModel:
        """A ControlNet whose trunk is a copy of the UNet's encoder and whose outputs are zero, in fp32."""

    @abstractmethod
    def encode_text(self, tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the UNet needs of the captions, each tensor with B in front."""

    @abstractmethod
    def predict(
        self,
        unet: Any,
        controlnet: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        hint: torch.Tensor,
    ) -> torch.Tensor:
        """The UNet's output (B, 4, h, w) under control. ``hint``: RGB in 0..1, (B, 3, H, W)."""

    @abstractmethod
    def pipeline(self, base: str, controlnet: ControlNetModel, dtype: torch.dtype, **resident: Any) -> Any:
        """A diffusers ControlNet pipeline without safety checker.

        Args:
            resident: parts that are loaded already (unet=, vae=, text_encoder=, tokenizer=, scheduler=), used as they
                are; None leaves a part out (text encoder and VAE are not needed between the two ends).
        """

    @abstractmethod
    def prompt_arguments(
        self, text: dict[str, torch.Tensor], negative: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """``encode_text``'s answers for prompts and negative prompts as arguments of the pipeline's call."""

    def encode_images(self, vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents of RGB pictures in -1..1 (B, 3, H, W), both (B, 4, h, w), unscaled."""
        posterior = vae.encode(images).latent_dist
        return posterior.mean, posterior.logvar

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """RGB pictures, about -1..1, (B, 3, H, W), from scaled latents (B, 4, h, w)."""
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> ControlNetModel:
        """A ControlNet from a diffusers folder.

        Raises:
            UserError: the folder is not one, or is incomplete.
        """
        return load_part(ControlNetModel, str(folder), "", dtype)


def read_component_config(base: str, subfolder: str, name: str) -> dict[str, Any]:
    """A JSON file of a base model, from its folder or from the hub.

    Raises:
        UserError: it cannot be had, with what is missing and where to put it.
    """
    path = Path(base) / subfolder / name
    try:
        if not Path(base).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(base, f"{subfolder}/{name}" if subfolder else name))
        return json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise cannot_load(base, subfolder, error) from error


def cannot_load(base: str, part: str, error: Exception) -> UserError:
    """Words for a base model or part of one that does not load."""
    if Path(base).exists():
        why = f"{part or 'The model'} cannot be read: {str(error).splitlines()[0][:300] if str(error) else error!r}."
        return UserError(
            f"The model {base} cannot be loaded.",
            why,
            "Check that the folder is complete (model_index.json, unet, vae, text_encoder, tokenizer, scheduler).",
        )
    return UserError(
        f"The model {base} could not be downloaded.",
        f"The Hugging Face hub did not give it: {type(error).__name__}.",
        "Check the name and the connection, or put its folder into the workspace's models folder and choose it.",
    )


def load_part(kind: Any, base: str, subfolder: str, dtype: torch.dtype | None) -> Any:
    """``kind.from_pretrained`` in words: safetensors first, and never code that comes with a model."""
    options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if dtype is not None:
        options["torch_dtype"] = dtype
    try:
        return kind.from_pretrained(base, **options)
    except Exception as error:
        raise cannot_load(base, subfolder, error) from error
