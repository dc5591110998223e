"""Stable Diffusion 1.x and 2.x, and what XL shares with them: a UNet with a ControlNet, CLIP text, DDPM noise.

1.x reads CLIP's text and predicts noise; the bundled tiny base is of this kind. 2.x reads OpenCLIP's text; some of its
bases predict noise (2-base), some velocity (2 and 2.1 at 768 px). Which, and whether the last step is pure noise (zero
terminal SNR), is in the base's own scheduler config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from engine.errors import UserError
from engine.families.base import Family
from engine.families.distilled import recognize
from engine.families.embedding_files import with_all_vectors
from engine.families.facts import SD1, SD2, FamilyFacts
from engine.families.noise import DiffusionNoise, NoiseProcess
from engine.families.parts import load_part
from engine.families.text_encoding import Text
from engine.families.unet_sizes import control_channels
from engine.families.unsupported import BaseParts, why_not


class StableDiffusion(Family):
    """A UNet reads latents, timestep and text; its ControlNet adds residuals to the down blocks' and middle outputs."""

    def why_unsupported(self, parts: BaseParts) -> str:
        return why_not(parts)

    def load_tokenizer(self, base: str) -> Any:
        return load_part(CLIPTokenizer, base, "tokenizer", None)

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(CLIPTextModel, base, "text_encoder", dtype).eval().requires_grad_(False)

    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(UNet2DConditionModel, base, self.facts.denoiser, dtype).eval().requires_grad_(False)

    def load_scheduler(self, base: str) -> Any:
        """The training noise schedule. Prediction type and zero terminal SNR come from the base's config."""
        scheduler = load_part(DDPMScheduler, base, "scheduler", None)
        if recognize(base) is None:
            return scheduler
        # Distilled bases know the timesteps that are counted from the last one, and samplers inherit this.
        return DDPMScheduler.from_config(scheduler.config, timestep_spacing="trailing")

    def noise_process(self, base: str) -> NoiseProcess:
        return DiffusionNoise(self.load_scheduler(base))

    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> ControlNetModel:
        trunk = denoiser.config["block_out_channels"][0]
        net = ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=control_channels(trunk))
        return net.float()

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> ControlNetModel:
        return load_part(ControlNetModel, str(folder), "", dtype)

    def encode_text(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        tokens = [tokenize(one, captions) for one in listed(tokenizer)]
        return self.encode_tokens(text_encoder, tokens, self.skipped_layers(clip_skip))

    def encode_tokens(
        self, text_encoder: Any, tokens: Sequence[torch.Tensor], skipped: int = 0
    ) -> dict[str, torch.Tensor]:
        """``encode_text`` from the tokens (B, length) of each tokenizer.

        The final norm follows the layer that is read, whichever it is, as in AUTOMATIC1111 and diffusers.
        """
        if not skipped:
            return {"hidden": text_encoder(tokens[0].to(text_encoder.device))[0]}
        read = text_encoder(tokens[0].to(text_encoder.device), output_hidden_states=True)
        model = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has it under either name
        return {"hidden": model.final_layer_norm(layer_output(self.facts, read.hidden_states, 1, skipped))}

    def encode_long(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], chunks: int, clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """The hidden states of all chunks one after the other, and the first chunk's pooled text.

        AUTOMATIC1111 does the same, but prefers to split at commas.
        """
        return self.encode_numbers(text_encoder, self.token_numbers(tokenizer, captions, chunks), clip_skip)

    def token_numbers(self, tokenizer: Any, captions: Sequence[str], chunks: int = 1) -> dict[str, torch.Tensor]:
        found = {}
        for number, one in enumerate(listed(tokenizer), 1):
            split = [tokenize_chunk(one, captions, chunk) for chunk in range(chunks)] if chunks > 1 else []
            found[f"tokens_{number}"] = torch.stack(split or [tokenize(one, captions)], dim=1)
        return found

    def encode_numbers(
        self, text_encoder: Any, numbers: Mapping[str, torch.Tensor], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        chunks = zip(*(tokens.unbind(1) for tokens in numbers.values()), strict=True)
        encoded = [self.encode_tokens(text_encoder, tokens, self.skipped_layers(clip_skip)) for tokens in chunks]
        return {**encoded[0], "hidden": torch.cat([one["hidden"] for one in encoded], dim=1)}

    def chunk_counts(self, tokenizer: Any, captions: Sequence[str]) -> list[int]:
        first = listed(tokenizer)[0]
        length = first.model_max_length - 2  # without start and end token
        tokens = first(with_all_vectors(first, captions), truncation=False, verbose=False).input_ids
        return [max(1, -(-(len(numbers) - 2) // length)) for numbers in tokens]

    def text_length(self, text: Text) -> int:
        return int(text["hidden"].shape[-2])

    def repeated_text(self, text: Text, tokens: int) -> dict[str, torch.Tensor]:
        return {**text, "hidden": text["hidden"].repeat(1, tokens // self.text_length(text), 1)}

    def added_conditions(self, text: Text) -> dict[str, Any]:
        """Arguments that UNet and ControlNet take besides the text's hidden states."""
        return {}

    def encode_control(self, maps: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """RGB in 0..1, (B, 3, H, W)."""
        return maps.permute(0, 3, 1, 2).contiguous().float() / 255

    def predict(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> torch.Tensor:
        added = self.added_conditions(text)
        if control is None:
            return denoiser(noisy, timesteps, text["hidden"], return_dict=False, **added)[0]
        down, middle = net(noisy, timesteps, text["hidden"], controlnet_cond=control, return_dict=False, **added)
        dtype = denoiser.dtype  # read once: diffusers walks over the whole net for it
        return denoiser(
            noisy,
            timesteps,
            text["hidden"],
            down_block_additional_residuals=[residual.to(dtype) for residual in down],
            mid_block_additional_residual=middle.to(dtype),
            return_dict=False,
            **added,
        )[0]

    def control_outputs(self, net: Any, generator: torch.Generator) -> list[torch.Tensor]:
        """For 8 x 8 latents, 8 tokens of text, and a control image of 64 x 64."""
        latents = torch.randn((1, net.config.in_channels, 8, 8), generator=generator)
        text = torch.randn((1, 8, net.config.cross_attention_dim), generator=generator)
        control = torch.rand((1, net.config.conditioning_channels, 64, 64), generator=generator)
        added = self.noise_conditions(net.config, generator)
        down, middle = net(latents, torch.tensor([500]), text, controlnet_cond=control, return_dict=False, **added)
        return [*down, middle]

    def noise_conditions(self, config: Any, generator: torch.Generator) -> dict[str, Any]:
        """``added_conditions`` of noise, for a net of this config."""
        if config.addition_embed_type != "text_time":
            return {}
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
        pooled = torch.randn((1, width), generator=generator)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    def map_residuals(self, outputs: Any, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Any:
        down, middle = outputs
        *down, middle = change([*down, middle])
        return down, middle

    def prompt_arguments(self, text: Text, negative: Text) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": text["hidden"], "negative_prompt_embeds": negative["hidden"]}


class StableDiffusion1(StableDiffusion):
    facts = SD1
    pipeline_class = StableDiffusionControlNetPipeline
    image_pipeline_class = StableDiffusionControlNetImg2ImgPipeline
    pipeline_options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        # 2.x has the same class names, but linear projections.
        return one_text_encoder(index, config) and not config.get("use_linear_projection", False)


class StableDiffusion2(StableDiffusion1):
    facts = SD2

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return one_text_encoder(index, config) and bool(config.get("use_linear_projection", False))


def one_text_encoder(index: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a base has the parts of Stable Diffusion 1 or 2."""
    return (
        "text_encoder" in index
        and "text_encoder_2" not in index
        and config.get("_class_name") == "UNet2DConditionModel"
    )


def layer_output(facts: FamilyFacts, states: Sequence[torch.Tensor], usual: int, skipped: int) -> torch.Tensor:
    """The output of the layer that is ``skipped`` layers before the usual one.

    Args:
        states: the embeddings, then each layer's output.
        usual: place of the usual layer among them, counted from the end; 1 is the last.

    Raises:
        UserError: there are not so many layers.
    """
    count, unloaded = len(states) - 1, facts.text_layer - usual
    if usual + skipped > count:
        raise UserError(
            f"Clip skip {usual + skipped + unloaded} cannot be used with this base.",
            f"Its text encoder has {count + unloaded} layers.",
            f"Set Clip skip to {count + unloaded} or less. 1 and 2 are usual.",
        )
    return states[-usual - skipped]


def listed(tokenizer: Any) -> list[Any]:
    """The tokenizers of a family that has one, or several."""
    return list(tokenizer) if isinstance(tokenizer, list | tuple) else [tokenizer]


def tokenize(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Token numbers (B, length), padded to the tokenizer's own length and cut there."""
    captions, length = with_all_vectors(tokenizer, captions), tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids


def tokenize_chunk(tokenizer: Any, captions: Sequence[str], chunk: int) -> torch.Tensor:
    """Token numbers (B, length) of the ``chunk``-th part of each caption, with start and end token of its own."""
    length = tokenizer.model_max_length
    rows = []
    for caption in with_all_vectors(tokenizer, captions):
        inner = tokenizer(caption, truncation=False, verbose=False).input_ids[1:-1]
        part = inner[chunk * (length - 2) : (chunk + 1) * (length - 2)]
        row = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
    return torch.tensor(rows)
