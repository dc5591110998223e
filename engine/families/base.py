"""What a base model family must be able to do. Shapes: B images, H x W pixels, h = H / 8, w = W / 8.

The Stable Diffusion families differ in little: this class does what they share, a subclass says what is its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from engine.families.facts import FamilyFacts
from engine.families.latents import LatentSpace
from engine.families.layers import Layers
from engine.families.noise import DiffusionNoise, NoiseProcess
from engine.families.parts import load_part, read_component_config
from engine.families.unet_sizes import control_channels
from engine.machine.memory import free_memory, none_if_out_of_memory

TILE = 512  # pixels


class Family(ABC):
    """Everything that differs between base models."""

    facts: FamilyFacts
    """What is known of it without torch."""
    pipeline_class: Any
    """The diffusers pipeline for sampling with a ControlNet."""
    image_pipeline_class: Any
    """The one that starts from an image."""
    pipeline_options: dict[str, Any]
    """Arguments of their constructors besides the parts."""

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def title(self) -> str:
        return self.facts.title

    @property
    def layers(self) -> Layers:
        """Where the layers of the denoiser and of its control net lie."""
        return self.facts.layers

    @property
    def latents(self) -> LatentSpace:
        """Channels and size of the latents of every base of this family. Their scale: ``latent_space``."""
        return self.facts.latents

    @abstractmethod
    def matches(self, index: dict[str, Any], unet: dict[str, Any]) -> bool:
        """Whether a base with this model_index.json and UNet config belongs here."""

    def load_tokenizer(self, base: str) -> Any:
        """The tokenizer (or several)."""
        return load_part(CLIPTokenizer, base, "tokenizer", None)

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        """The text encoder (or several in one module)."""
        return load_part(CLIPTextModel, base, "text_encoder", dtype).eval().requires_grad_(False)

    def load_vae(self, base: str) -> torch.nn.Module:
        """The VAE, always in fp32: in half precision SDXL's overflows, and its images are black."""
        return load_part(AutoencoderKL, base, "vae", torch.float32).eval().requires_grad_(False)

    def latent_space(self, base: str) -> LatentSpace:
        """The latents of a base's VAE, from its config."""
        return LatentSpace.from_config(read_component_config(base, "vae", "config.json"))

    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        """The net that predicts noise or velocity, frozen."""
        return load_part(UNet2DConditionModel, base, self.facts.denoiser, dtype).eval().requires_grad_(False)

    def denoiser_config(self, base: str) -> dict[str, Any]:
        """The denoiser's config.json."""
        return read_component_config(base, self.facts.denoiser, "config.json")

    def denoiser_of(self, pipeline: Any) -> Any:
        """The denoiser of a pipeline from ``pipeline``."""
        return getattr(pipeline, self.facts.denoiser)

    def load_scheduler(self, base: str) -> Any:
        """The training noise schedule: what it predicts, and a zero terminal SNR, are as the base's config says."""
        return load_part(DDPMScheduler, base, "scheduler", None)

    def noise_process(self, base: str) -> NoiseProcess:
        """How training adds noise to latents and what the denoiser predicts, from the base's scheduler config."""
        return DiffusionNoise(self.load_scheduler(base))

    def default_resolution(self, base: str) -> int:
        """Side in pixels that the base was made for."""
        return int(self.denoiser_config(base).get("sample_size", 64)) * self.latents.factor

    def new_controlnet(self, denoiser: Any) -> ControlNetModel:
        """A ControlNet whose trunk is a copy of the UNet's encoder and whose outputs are zero, in fp32."""
        trunk = denoiser.config["block_out_channels"][0]
        controlnet = ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=control_channels(trunk))
        return controlnet.float()

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> ControlNetModel:
        """A ControlNet from a diffusers folder.

        Raises:
            UserError: the folder is not one, or is incomplete.
        """
        return load_part(ControlNetModel, str(folder), "", dtype)

    def encode_text(self, tokenizer: Any, text_encoder: Any, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the denoiser reads of the captions: tensors (B, ...) by name. Only the family knows the names."""
        return self.encode_tokens(text_encoder, [tokenize(words, captions) for words in listed(tokenizer)])

    def encode_tokens(self, text_encoder: Any, tokens: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same from the tokens (B, length) of each tokenizer."""
        return {"hidden": text_encoder(tokens[0].to(text_encoder.device))[0]}

    def pieces(self, tokenizer: Any, captions: Sequence[str]) -> int:
        """How many times the text encoder has to read to take in the longest of the captions."""
        first = listed(tokenizer)[0]
        room = first.model_max_length - 2  # a beginning and an end
        longest = max(len(first(text, truncation=False, verbose=False).input_ids) - 2 for text in captions)
        return max(1, -(-longest // room))

    def encode_long(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], pieces: int
    ) -> dict[str, torch.Tensor]:
        """Captions of any length: read in pieces, whose hidden states are laid one after the other.

        As AUTOMATIC1111 does it, but for its liking for commas. What is told of the whole text is the first piece's.
        """
        if pieces == 1:
            return self.encode_text(tokenizer, text_encoder, captions)
        split = [[tokenize_piece(words, captions, piece) for words in listed(tokenizer)] for piece in range(pieces)]
        read = [self.encode_tokens(text_encoder, tokens) for tokens in split]
        return {**read[0], "hidden": torch.cat([one["hidden"] for one in read], dim=1)}

    def text_length(self, text: Mapping[str, torch.Tensor]) -> int:
        """Tokens of an encoded text, with or without B in front."""
        return int(text["hidden"].shape[-2])

    def repeated_text(self, text: Mapping[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
        """An encoded text (B, ...) repeated up to ``tokens`` tokens, a multiple of its length.

        The negative prompt has to be as long as a prompt that was read in pieces.
        """
        return {**text, "hidden": text["hidden"].repeat(1, tokens // self.text_length(text), 1)}

    def conditioning(
        self, text: Mapping[str, torch.Tensor], sizes: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """What ``predict`` takes as ``text``: the encoded captions in ``dtype``, and the images' sizes.

        Args:
            sizes: (B, 6), from ``engine.data.crop.size_numbers``, on the device of ``text``.
        """
        return {name: rows.to(dtype) for name, rows in text.items()} | self.size_conditions(sizes)

    def encode_control(self, maps: torch.Tensor) -> torch.Tensor:
        """Control images as the control net reads them.

        Args:
            maps: uint8 RGB (B, H, W, 3).

        Returns:
            RGB in 0..1, fp32 (B, 3, H, W), on the same device.
        """
        return maps.permute(0, 3, 1, 2).contiguous().float() / 255

    def size_conditions(self, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the UNet wants to know of the images' sizes, to be laid beside the text.

        Args:
            sizes: (B, 6), from ``engine.data.crop.size_numbers``.
        """
        return {}

    def added_conditions(self, text: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Arguments that UNet and ControlNet take besides the text's hidden states."""
        return {}

    def predict(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor,
    ) -> torch.Tensor:
        """The denoiser's prediction under control, of the shape of ``noisy``.

        Args:
            net: the control net.
            noisy: noisy latents (B, C, h, w).
            timesteps: (B,), from the base's ``NoiseProcess``.
            text: from ``conditioning``.
            control: from ``encode_control``.
        """
        added = self.added_conditions(text)
        down, middle = net(noisy, timesteps, text["hidden"], controlnet_cond=control, return_dict=False, **added)
        dtype = denoiser.dtype  # diffusers walks over the whole net for the answer
        return denoiser(
            noisy,
            timesteps,
            text["hidden"],
            down_block_additional_residuals=[residual.to(dtype) for residual in down],
            mid_block_additional_residual=middle.to(dtype),
            return_dict=False,
            **added,
        )[0]

    def pipeline(self, base: str, controlnet: ControlNetModel, dtype: torch.dtype, **resident: Any) -> Any:
        """A diffusers ControlNet pipeline without safety checker.

        Args:
            resident: loaded parts to use as they are (denoiser=, vae=, text_encoder=, tokenizer=, scheduler=). None
                leaves a part out: sampling itself needs neither text encoder nor VAE.
        """
        load: dict[str, Callable[[], Any]] = {
            "vae": lambda: self.load_vae(base),
            "denoiser": lambda: self.load_denoiser(base, dtype),
            "text_encoder": lambda: self.load_text_encoder(base, dtype),
            "tokenizer": lambda: self.load_tokenizer(base),
            "scheduler": lambda: UniPCMultistepScheduler.from_config(self.load_scheduler(base).config),
        }
        parts = {name: resident[name] if name in resident else loader() for name, loader in load.items()}
        parts[self.facts.denoiser] = parts.pop("denoiser")
        pipeline = self.pipeline_class(**self.pipeline_parts(parts), controlnet=controlnet, **self.pipeline_options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def image_pipeline(self, pipeline: Any) -> Any:
        """The pipeline that draws over an image, made of the same parts; nothing is copied."""
        made = self.image_pipeline_class(**{**pipeline.components, **self.pipeline_options})
        made.set_progress_bar_config(disable=True)
        return made

    def pipeline_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Parts under the names that the pipeline's constructor gives them."""
        return parts

    def prompt_arguments(
        self, text: dict[str, torch.Tensor], negative: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """``encode_text``'s answers for prompts and negative prompts as arguments of the pipeline's call."""
        return {"prompt_embeds": text["hidden"], "negative_prompt_embeds": negative["hidden"]}

    def encode_images(self, vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents of RGB images in -1..1 (B, 3, H, W), both (B, 4, h, w), unscaled."""
        posterior = vae.encode(images).latent_dist
        return posterior.mean, posterior.logvar

    def encode_mean(self, vae: Any, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) of RGB images in -1..1 (B, 3, H, W): the mean of the VAE's posterior."""
        return LatentSpace.from_config(vae.config).scaled(self.encode_images(vae, images)[0])

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """RGB images, about -1..1, (B, 3, H, W), from scaled latents (B, 4, h, w).

        Where memory does not suffice for a large image, it is decoded in tiles of 512 px that overlap.
        """
        space = LatentSpace.from_config(vae.config)
        unscaled = space.unscaled(latents.to(vae.dtype))

        def decode() -> torch.Tensor:
            return vae.decode(unscaled).sample

        if max(latents.shape[-2:]) * space.factor <= TILE:
            return decode()
        whole = none_if_out_of_memory(decode)
        if whole is not None:
            return whole
        free_memory()
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // space.factor
        vae.enable_tiling()
        return decode()


def listed(tokenizer: Any) -> list[Any]:
    """The tokenizers of a family that has one, or several."""
    return list(tokenizer) if isinstance(tokenizer, list | tuple) else [tokenizer]


def tokenize_piece(tokenizer: Any, captions: Sequence[str], piece: int) -> torch.Tensor:
    """Token numbers (B, length) of the ``piece``-th part of each caption, with a beginning and an end of its own."""
    length = tokenizer.model_max_length
    rows = []
    for caption in captions:
        inner = tokenizer(caption, truncation=False, verbose=False).input_ids[1:-1]
        part = inner[piece * (length - 2) : (piece + 1) * (length - 2)]
        row = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
    return torch.tensor(rows)


def tokenize(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Token numbers (B, length), padded to the tokenizer's own length and cut there."""
    length = tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(captions), **options).input_ids
