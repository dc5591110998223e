"""Sizes of what encodes images and captions, for the memory estimate: an AutoencoderKL, and CLIP's text encoders.

All are numbers of elements, from the configs alone; activations are those at the peak without gradients. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

VAE_PARAMETERS, VAE_WIDEST = 83_653_863, 512  # of the VAE of every Stable Diffusion
LAYER_TENSORS = 3  # at the VAE's widest layer while it decodes: input, output, and the norm's output
T5_TOKENS, LONG_T5_TOKENS = 256, 512  # that Stable Diffusion 3 and Flux read
FIRST_LAYER_TENSORS = 5  # while it encodes: also the first convolution's output, which diffusers keeps, and a sum


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of a base's VAE and text encoders."""

    vae: float
    """Parameters of the VAE."""
    image: int
    """Activations while one image is encoded."""
    decoded_image: int
    """Activations while one image is decoded."""
    tokens: int
    """Number of tokens of a caption that are read at once."""
    text: int
    """Parameters of the text encoders."""
    caption: int
    """Activations while one caption is encoded."""
    text_sides: int = 0
    """Rows and columns of the layers of the text encoders that a LoRA may change: it has as many numbers at rank 1."""
    text_layers: int = 0
    """Number of these layers."""
    caption_kept: int = 0
    """Those that are kept until the backward pass, where words or text encoders are trained."""


CountEncoders = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], int, int], EncoderSizes]
"""``count(vae, text_encoders, side, decoded_side)``: from their config.json; sides of square images, in pixels."""


def count_clip(
    vae: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]], side: int, decoded_side: int
) -> EncoderSizes:
    """The VAE and text encoders of every Stable Diffusion. A VAE whose config is missing counts as that of 1.5."""
    widths = vae.get("block_out_channels", (128, 256, 512, VAE_WIDEST))
    tokens = int(text_encoders[0].get("max_position_embeddings", 77)) if text_encoders else 77
    # The output of every layer of each text encoder, and one layer inside.
    outputs = sum((int(config["num_hidden_layers"]) + 1) * int(config["hidden_size"]) for config in text_encoders)
    inside = max((2 * int(config["intermediate_size"]) for config in text_encoders), default=0)
    return EncoderSizes(
        vae=float(VAE_PARAMETERS * (widths[-1] / VAE_WIDEST) ** 2),
        image=FIRST_LAYER_TENSORS * widths[0] * side**2,
        decoded_image=LAYER_TENSORS * widths[1] * decoded_side**2,
        tokens=tokens,
        text=sum(_clip_parameters(config) for config in text_encoders),
        caption=tokens * (outputs + inside),
        text_sides=sum(
            int(config["num_hidden_layers"]) * (10 * int(config["hidden_size"]) + 2 * int(config["intermediate_size"]))
            for config in text_encoders
        ),
        text_layers=sum(6 * int(config["num_hidden_layers"]) for config in text_encoders),
        caption_kept=tokens * sum(_kept_for_each_token(config) for config in text_encoders),
    )


def count_three(
    vae: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]], side: int, decoded_side: int
) -> EncoderSizes:
    """Both CLIPs, and T5 where the base has it: the denoiser reads the tokens of both, or one in place of T5's."""
    found = _with_t5(vae, text_encoders, side, decoded_side, T5_TOKENS)
    has_t5 = any("d_model" in config for config in text_encoders)
    return replace(found, tokens=found.tokens + (T5_TOKENS if has_t5 else 1))


def count_clip_and_t5(
    vae: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]], side: int, decoded_side: int
) -> EncoderSizes:
    """CLIP, of which the denoiser reads a pooled vector, and T5, of which it reads ``LONG_T5_TOKENS`` tokens."""
    return replace(_with_t5(vae, text_encoders, side, decoded_side, LONG_T5_TOKENS), tokens=LONG_T5_TOKENS)


def _with_t5(
    vae: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]], side: int, decoded_side: int, tokens: int
) -> EncoderSizes:
    """The CLIPs, with CLIP's tokens, and T5 where the base has it. ``tokens``: that T5 reads."""
    clips = [config for config in text_encoders if "d_model" not in config]
    found = count_clip(vae, clips, side, decoded_side)
    for config in (config for config in text_encoders if "d_model" in config):
        width, inner = int(config["d_model"]), int(config["d_ff"])
        heads = int(config["num_heads"]) * int(config["d_kv"])
        # It stays in RAM, and a card has one layer of it at a time, in bf16: query, key, value, output; the gated MLP.
        layer = max(4 * width * heads + 3 * width * inner, int(config["vocab_size"]) * width)
        inside = tokens * (4 * width + 3 * inner) + int(config["num_heads"]) * tokens**2
        found = replace(found, text=found.text + layer // 2, caption=found.caption + inside)
    return found


def _kept_for_each_token(config: Mapping[str, Any]) -> int:
    """In each layer: inputs of the norms and their outputs, query, key, value, output; the MLP before and after."""
    layer = 8 * int(config["hidden_size"]) + 2 * int(config["intermediate_size"])
    return int(config["num_hidden_layers"]) * layer


def _clip_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a CLIP text encoder, to a percent."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    layer = 4 * hidden**2 + 2 * hidden * inner
    return int(config["num_hidden_layers"]) * layer + int(config["vocab_size"]) * hidden
