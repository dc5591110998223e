"""Z-Image: a transformer over image and caption tokens in one stream, Qwen3 as text encoder, flow matching.

Its time runs from 0 (pure noise) to 1, and it predicts the negative of the flow. Its ControlNet adds residuals behind
some of the layers; layouts are those of the published nets (Alibaba PAI, "Z-Image-Turbo-Fun-Controlnet-Union"), since
ComfyUI reads no others. The default one has 3 layers and 2 refiners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from diffusers import ZImageTransformer2DModel
from transformers import AutoTokenizer, Qwen3Model

from engine.families.facts import ZIMAGE
from engine.families.flow import FlowMatching
from engine.families.noise import NoiseProcess
from engine.families.parts import load_part, read_component_config
from engine.families.residuals import Residuals
from engine.families.stable_diffusion import layer_output
from engine.families.text_encoding import Text
from engine.families.transformer import TransformerFamily
from engine.families.unsupported import BaseParts, other_latents, without_text
from engine.families.zimage_net import (
    MULTIPLE,
    Embedded,
    ZImageControlNetModel,
    denoise,
    embed,
    only_image,
    without_captions,
)
from engine.families.zimage_sizes import LAYOUTS, TEXT_TOKENS, control_places

LARGE = 10**8
HIDDEN = "hidden_from_net"
"""In an encoded text, (B,): 1 where the control net reads no caption."""
LARGEST_HALF = 65504.0


class QwenEncoder(torch.nn.Module):
    """Qwen3. The real one takes 7.5 GiB in bf16: it stays in RAM, and a card is given one layer at a time."""

    place: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that ``to`` leaves it where it is
        self._streams_to: torch.device | None = None
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def hidden_states(self, tokens: torch.Tensor, mask: torch.Tensor) -> Sequence[torch.Tensor]:
        """The outputs of all layers (B, length, width), fp32, from token numbers and their mask (B, length)."""
        (model,) = self._model
        if self.device.type != "cpu" and self._streams_to != self.device:
            cpu_offload(model, execution_device=self.device)
            self._streams_to = self.device
        read = model(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            output_hidden_states=True,
            use_cache=False,
        )
        return read.hidden_states


class ZImage(TransformerFamily):
    facts = ZIMAGE

    def matches(self, index: dict[str, Any], config: dict[str, Any]) -> bool:
        return config.get("_class_name") == self.facts.denoiser_class

    def why_unsupported(self, parts: BaseParts) -> str:
        if parts.denoiser.get("siglip_feat_dim"):
            return "It is Z-Image Omni, which also reads images."
        return without_text(parts.index, ("text_encoder", "tokenizer")) or other_latents(parts.vae, self.facts)

    def default_resolution(self, base: str) -> int:
        """From the VAE's config: the transformer's does not tell."""
        return int(read_component_config(base, "vae", "config.json").get("sample_size", 1024))

    def noise_process(self, base: str) -> NoiseProcess:
        return FlowMatching(self.load_scheduler(base), shift_in_training, patch=self.facts.patch)

    # Text

    def load_tokenizer(self, base: str) -> Any:
        return load_part(AutoTokenizer, base, "tokenizer", None)

    def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        config = read_component_config(base, "text_encoder", "config.json")
        large = int(config["hidden_size"]) * int(config["intermediate_size"]) * int(config["num_hidden_layers"]) > LARGE
        model = load_part(Qwen3Model, base, "text_encoder", torch.bfloat16 if large else dtype)
        return QwenEncoder(model.eval().requires_grad_(False)).eval()

    def encode_text(
        self, tokenizer: Any, text_encoder: Any, captions: Sequence[str], clip_skip: int = 1
    ) -> dict[str, torch.Tensor]:
        """Hidden states of the captions in Qwen3's chat template, filled up to the longest; and which tokens are real.

        (B, length, 2560) and (B, length) for the real base; 1 is real.
        """
        chat = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        asked = [tokenizer.apply_chat_template([{"role": "user", "content": one}], **chat) for one in captions]
        options = {"padding": True, "padding_side": "right", "max_length": TEXT_TOKENS, "truncation": True}
        read = tokenizer(asked, return_tensors="pt", **options)
        states = text_encoder.hidden_states(read.input_ids, read.attention_mask)
        real = read.attention_mask.to(states[0].device)
        hidden = layer_output(self.facts, states, 2, self.skipped_layers(clip_skip)).float()
        # The cache is in fp16, and single channels of a language model's states are large. Padding is zero.
        hidden = hidden.clamp(-LARGEST_HALF, LARGEST_HALF) * real[..., None]
        return {"hidden": hidden, "real": real.float()}

    def text_length(self, text: Text) -> int:
        """The most that is read: captions of different lengths go together."""
        return TEXT_TOKENS

    def hidden_from_net(self, text: Text, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**text, HIDDEN: rows.float()}

    # Denoiser and control net

    def load_denoiser(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
        return load_part(ZImageTransformer2DModel, base, self.facts.denoiser, dtype).eval().requires_grad_(False)

    def new_controlnet(self, denoiser: Any, blocks: int = 0) -> ZImageControlNetModel:
        """Layers and refiners are copies of the denoiser's first ones, and so is the embedder of the control image.

        The channels for inpainting begin at zero, in the layouts that have them. ``blocks``: 3 or 6 layers.
        """
        config = denoiser.config
        layers = blocks or self.facts.usual_blocks
        channels, adds = LAYOUTS[layers]
        shared = {name: config[name] for name in ("dim", "n_refiner_layers", "n_heads", "n_kv_heads", "norm_eps")}
        net = ZImageControlNetModel(
            control_layers_places=control_places(config["n_layers"], layers),
            control_refiner_layers_places=list(range(config["n_refiner_layers"])),
            control_in_dim=channels,
            add_control_noise_refiner="control_noise_refiner" if adds else None,
            qk_norm=config["qk_norm"],
            **shared,
        )
        with torch.no_grad():
            own = net.state_dict()
            weights = {self.layers.in_control_net(name): weight for name, weight in denoiser.state_dict().items()}
            net.load_state_dict({name: weight for name, weight in weights.items() if name in own}, strict=False)
            ours, theirs = net.control_all_x_embedder["2-1"], denoiser.all_x_embedder["2-1"]
            wide = torch.zeros_like(ours.weight).unflatten(1, (4, -1))
            wide[..., : config["in_channels"]] = theirs.weight.float().unflatten(1, (4, -1))
            ours.weight.copy_(wide.flatten(1))
            ours.bias.copy_(theirs.bias)
        return net.float()

    def empty_controlnet(self, config: dict[str, Any]) -> ZImageControlNetModel:
        return ZImageControlNetModel.from_config(config)

    def load_controlnet(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> ZImageControlNetModel:
        return load_part(ZImageControlNetModel, str(folder), "", dtype)

    def control_outputs(self, net: Any, generator: torch.Generator) -> list[torch.Tensor]:
        """For 32 tokens of an image and of a caption, in place of what a denoiser would make of them."""
        config = net.config
        places = torch.ones(1, MULTIPLE, config.dim // config.n_heads // 2, dtype=torch.complex64)
        width = net.control_layers[0].adaLN_modulation[0].in_features
        image, captions = (torch.randn((1, MULTIPLE, config.dim), generator=generator) for _ in range(2))
        time = torch.randn((1, width), generator=generator)
        control = torch.randn((1, config.control_in_dim, 8, 16), generator=generator)
        embedded = Embedded(image, places, captions, places, None, time)
        refiners = [lambda tokens, *_: tokens] * config.n_refiner_layers
        return net(control, embedded, refiners, image[0, :1])[0]

    def residuals(
        self,
        denoiser: Any,
        net: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        control: torch.Tensor,
    ) -> Residuals:
        embedded = embed(denoiser, noisy.to(denoiser.dtype), 1 - timesteps, cut(text))
        hidden = text[HIDDEN] > 0 if HIDDEN in text else None
        if hidden is not None:
            embedded = without_captions(embedded, hidden)
        outputs = net(control, embedded, denoiser.noise_refiner, denoiser.x_pad_token)[0]
        early = [one for one in outputs if one.shape[1] == embedded.image.shape[1]]
        behind: list[torch.Tensor | None] = [None] * len(denoiser.layers)
        late = outputs[len(early) :]
        for place, one in zip(control_places(len(behind), len(late)), late, strict=True):
            behind[place] = one if hidden is None else only_image(one, embedded.image.shape[1], hidden)
        refiners = len(denoiser.noise_refiner)
        return [*early, *[None] * refiners][:refiners], behind

    def denoise(
        self,
        denoiser: Any,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        text: Text,
        residuals: Residuals | None,
    ) -> torch.Tensor:
        embedded = embed(denoiser, noisy.to(denoiser.dtype), 1 - timesteps, cut(text))
        return -denoise(denoiser, embedded, residuals, *noisy.shape[-2:])


def cut(text: Text) -> list[torch.Tensor]:
    """The real tokens (length, width) of each caption."""
    lengths = (text["real"] > 0).sum(dim=1).tolist()
    return [hidden[:length] for hidden, length in zip(text["hidden"], lengths, strict=True)]


def shift_in_training(tokens: int) -> float:
    """The resolution shift, 2 at 512 px and 3 at 1024 px: linear in the side.

    Trainers of Z-Image use 2 to 3; the base samples with 3 (Turbo) or 6.
    """
    return 1 + math.sqrt(tokens) / 32
