"""Sizes of FLUX.1's transformer and its ControlNet, counted from the transformer's config.json. No torch.

The structure is that of diffusers' FluxTransformer2DModel and FluxControlNetModel. Parameters are exact. Activations
are what autograd keeps of a block with attention that stores no matrix, counted on the meta device in half precision
(tests/families/test_flux.py counts them again); they are proportional to the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.families.encoder_sizes import LONG_T5_TOKENS
from engine.families.sizes import Learned, NetSize, Sizes

ONLY_CONTROLNET = Learned()
CONTROL_BLOCKS = 2
"""Blocks of a new ControlNet, all with two streams; a smaller base: as many as it has."""

# Numbers that a block keeps for the backward pass, by token and channel: (frozen, trained).
TWO_STREAMS_KEPT, ONE_STREAM_KEPT = (14.5, 28.5), (13.5, 25.5)
WORKING = 12
"""Beside them while a block computes: the hidden layer of its MLP (4) before and after GELU, its output, gradients."""


def count(
    config: Mapping[str, Any],
    resolution: int,
    tokens: int = LONG_T5_TOKENS,
    learned: Learned = ONLY_CONTROLNET,
) -> Sizes:
    """Count a transformer, and the ControlNet for it if one is trained.

    Args:
        config: the transformer's config.json.
        resolution: side of the images in pixels.
        tokens: tokens of a caption.
        learned: what is trained.
    """
    head = int(config["attention_head_dim"])
    width = int(config["num_attention_heads"]) * head
    channels, blocks = int(config["in_channels"]), int(config["num_layers"])
    image = (resolution // 16) ** 2  # a token is 2 x 2 latents of 8 x 8 pixels
    both = width * (image + tokens)
    trained_base = learned.base != "nothing"
    residual = width * image

    def embed(net: NetSize) -> None:
        net.layer(width, channels)
        for inner in (256, 256, int(config["pooled_projection_dim"]))[0 if config.get("guidance_embeds") else 1 :]:
            net.layer(width, inner)
            net.layer(width, width)
        net.layer(width, int(config["joint_attention_dim"]))

    def head_norms(net: NetSize, number: int) -> None:
        net.weights += number * head
        net.adafactor += number * head

    def two_streams(net: NetSize, trained: bool, reads: int) -> None:
        for _ in range(2):  # image and text: modulation, query, key, value, output, MLP
            net.modulating(6 * width, width)
            for _ in range(4):
                net.layer(width, width, group="attention")
            net.layer(4 * width, width, group="linear")
            net.layer(width, 4 * width, group="linear")
        head_norms(net, 4)
        net.unit(int(TWO_STREAMS_KEPT[trained] * both), both, WORKING * residual, WORKING * residual, reads)

    def one_stream(net: NetSize, trained: bool, reads: int = 0) -> None:
        net.modulating(3 * width, width)
        for _ in range(3):
            net.layer(width, width, group="attention")
        net.layer(4 * width, width, group="linear")
        net.layer(width, 5 * width, group="linear")
        head_norms(net, 2)
        net.unit(int(ONE_STREAM_KEPT[trained] * both), both, WORKING * both, WORKING * both, reads)

    denoiser, control = NetSize(), NetSize()
    embed(denoiser)
    denoiser.part = "blocks"
    denoiser.adapt(learned)
    wanted = learned.blocks or min(blocks, CONTROL_BLOCKS)
    singles, blocks_of_one = learned.single_blocks, int(config["num_single_layers"])

    def reads(number: int, of_base: int, outputs: int) -> int:
        """The blocks that read one output add to one gradient, which the last of them makes in the backward pass."""
        last = outputs and (number % math.ceil(of_base / outputs) == 0 or number == of_base)
        return residual if learned.control and last else 0

    for number in range(1, blocks + 1):
        two_streams(denoiser, trained_base, reads(number, blocks, wanted))
    for number in range(1, blocks_of_one + 1):
        one_stream(denoiser, trained_base, reads(number, blocks_of_one, singles))
    denoiser.part = ""
    denoiser.layer(2 * width, width)
    denoiser.layer(int(config.get("out_channels") or channels), width)
    denoiser.unit(residual, residual)
    text_size = tokens * int(config["joint_attention_dim"])
    if not trained_base:
        denoiser.units = [replace(unit, trained=0) for unit in denoiser.units]
    if not learned.control:
        return Sizes(denoiser, denoiser.of_adapters(), NetSize(), 0, text_size)
    control.rank = learned.rank
    embed(control)
    for _ in range(wanted):
        two_streams(control, True, 0)
        control.writes(residual)
    for _ in range(singles):
        one_stream(control, True)
        control.writes(residual)
    control.rank = 0
    outputs = wanted + singles
    for _ in range(outputs):
        control.layer(width, width)
    control.layer(width, channels)
    control.unit(outputs * residual, outputs * residual)
    return Sizes(denoiser, control, NetSize(), outputs * residual, text_size)
