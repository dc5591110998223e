"""Sizes of Z-Image's transformer and its ControlNet, counted from the transformer's config.json. No torch.

The structure is that of diffusers' ZImageTransformer2DModel and ZImageControlNetModel. Parameters are exact.
Activations are what autograd keeps of a block with attention that stores no matrix, counted on the meta device in half
precision (tests/families/test_zimage.py counts them again); they are proportional to the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.families.encoder_sizes import EncoderSizes, count_clip
from engine.families.sizes import Learned, NetSize, Sizes

ONLY_CONTROLNET = Learned()
BASE_LAYERS = 30
CONTROL_LAYERS = 3
LATENTS = 16
"""Channels of the base's latents."""
UNUSED_CHANNELS = 17
"""Channels of the control image beside its latents, for inpainting: a mask, and latents of the masked image."""
LAYOUTS = {3: (33, True), 6: (16, False), 15: (33, True)}
"""The published ones by number of layers: channels of the control image, and whether its refiners give residuals."""
TEXT_TOKENS = 512
"""The most tokens of a caption, with the chat template."""
MULTIPLE = 32
KEPT = (30, 45)
"""Numbers that a block keeps for the backward pass, by token and channel: (frozen, trained)."""
WORKING = 11
"""Beside them while a block computes: the hidden layers of its MLP, its output, gradients."""


def count(
    config: Mapping[str, Any],
    resolution: int,
    tokens: int = TEXT_TOKENS,
    learned: Learned = ONLY_CONTROLNET,
) -> Sizes:
    """Count a transformer, and the ControlNet for it if one is trained.

    Args:
        config: the transformer's config.json.
        resolution: side of the images in pixels.
        tokens: tokens of a caption.
        learned: what is trained.
    """
    width, head = int(config["dim"]), int(config["dim"]) // int(config["n_heads"])
    hidden, time = int(width / 3 * 8), min(width, 256)
    layers, refiners, latents = (int(config[name]) for name in ("n_layers", "n_refiner_layers", "in_channels"))
    image, text = ((count + MULTIPLE - 1) // MULTIPLE * MULTIPLE for count in ((resolution // 16) ** 2, tokens))
    together = width * (image + text)
    trained_base = learned.base != "nothing"

    def vectors(net: NetSize, numbers: int) -> None:
        net.weights += numbers
        net.adafactor += numbers

    def block(net: NetSize, modulated: bool = True, zeros: int = 0) -> None:
        for _ in range(4):
            net.layer(width, width, bias=False, group="attention")
        net.layer(hidden, width, bias=False, group="linear")
        net.layer(hidden, width, bias=False, group="linear")
        net.layer(width, hidden, bias=False, group="linear")
        vectors(net, 4 * width + (2 * head if config.get("qk_norm", True) else 0))
        if modulated:
            net.modulating(4 * width, time)
        rank, net.rank = net.rank, 0
        for _ in range(zeros):
            net.layer(width, width)
        net.rank = rank

    def unit(net: NetSize, size: int, trained: bool, reads: int = 0) -> None:
        net.unit(KEPT[trained] * size, size, WORKING * size, WORKING * size, reads)

    denoiser, control = NetSize(), NetSize()
    wanted = learned.blocks or CONTROL_LAYERS
    channels, adds = LAYOUTS.get(wanted, LAYOUTS[CONTROL_LAYERS])
    denoiser.layer(width, 4 * latents)
    vectors(denoiser, int(config["cap_feat_dim"]) + 2 * width)
    denoiser.layer(width, int(config["cap_feat_dim"]))
    denoiser.layer(1024, 256)
    denoiser.layer(time, 1024)
    denoiser.part = "blocks"
    denoiser.adapt(learned)
    for _ in range(refiners):
        block(denoiser)
        block(denoiser, modulated=False)
        if trained_base:
            unit(denoiser, width * text, True)
        unit(denoiser, width * image, trained_base, width * image if learned.control and adds else 0)
    if learned.control and not adds and not trained_base:
        denoiser.frozen_so_far()
    places = control_places(layers, wanted)
    for number in range(layers):
        block(denoiser)
        reads = together if learned.control and number in places else 0
        unit(denoiser, together, trained_base, reads)
    denoiser.part = ""
    denoiser.layer(width, time)
    denoiser.layer(4 * latents, width)
    denoiser.unit(2 * together, together)
    text_size = text * (int(config["cap_feat_dim"]) + 1)
    if not trained_base:
        denoiser.units = [replace(one, trained=0) for one in denoiser.units]
    if not learned.control:
        return Sizes(denoiser, denoiser.of_adapters(), NetSize(), 0, text_size)
    control.layer(width, 4 * (latents + channels - LATENTS))
    control.rank = learned.rank
    for number in range(refiners):
        block(control, zeros=(1 if number else 2) if adds else 0)
        unit(control, width * image, True)
        if adds:
            control.writes(width * image)
    for _ in range(refiners if adds else 0):  # the denoiser's own, through which the refiners' residuals go
        unit(control, width * image, False)
    for number in range(len(places)):
        block(control, zeros=1 if number else 2)
        unit(control, together, True)
        control.writes(together)
    added = (refiners * width * image if adds else 0) + len(places) * together
    return Sizes(denoiser, control, NetSize(), added, text_size)


def control_places(layers: int, count: int) -> list[int]:
    """The denoiser's layers behind which ``count`` residuals are added, evenly, from the first."""
    return [number * layers // count for number in range(count)]


def count_qwen(
    vae: Mapping[str, Any], text_encoders: Sequence[Mapping[str, Any]], side: int, decoded_side: int
) -> EncoderSizes:
    """The VAE of every Stable Diffusion, and a Qwen3 that stays in RAM: a card has one layer of it, in bf16."""
    found = count_clip(vae, [], side, decoded_side)
    layer = inside = 0
    for config in text_encoders:
        width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        heads = int(config["num_attention_heads"]) * int(config.get("head_dim") or 128)
        layer += max(4 * width * heads + 3 * width * inner, int(config["vocab_size"]) * width)
        outputs = (int(config["num_hidden_layers"]) + 1) * width
        inside += TEXT_TOKENS * (outputs + 2 * width + 3 * inner)
    return replace(found, tokens=TEXT_TOKENS, text=layer // 2, caption=inside // 2)
