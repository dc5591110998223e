"""Sizes of Stable Diffusion 3's transformer and its ControlNet, counted from the transformer's config.json. No torch.

The structure is that of diffusers' SD3Transformer2DModel and SD3ControlNetModel. Parameters are exact. Activations are
what autograd keeps of a block with attention that stores no matrix, counted on the meta device in half precision
(tests/families/test_sd3.py counts them again); they are proportional to the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.families.sizes import Learned, NetSize, Sizes

ONLY_CONTROLNET = Learned()
CONTROL_BLOCKS = 6
"""Blocks of a ControlNet, unless the config says otherwise."""
TEXT_TOKENS = 77 + 256  # CLIP's and T5's

# Numbers that a block keeps for the backward pass, by token and channel: (frozen, trained). RMS norms compute in fp32,
# so their inputs count twice.
IMAGE_KEPT, SECOND_ATTENTION_KEPT, TEXT_KEPT, LAST_TEXT_KEPT = (16, 29), (10, 14), (16, 29), (11, 16)
WORKING = 12
"""Beside them while a block computes: the hidden layer of its MLP (4) before and after GELU, its output, gradients."""


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
        tokens: tokens of a caption, CLIP's and T5's together.
        learned: what is trained.
    """
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    blocks, patch = int(config["num_layers"]), int(config["patch_size"])
    image, text = (resolution // 8 // patch) ** 2, tokens
    dual = set(config.get("dual_attention_layers") or ())
    trained_base = learned.base != "nothing"
    residual = width * image

    def embed(net: NetSize) -> None:
        net.layer(width, int(config["in_channels"]), patch)
        net.tables += width * int(config.get("pos_embed_max_size") or 0) ** 2
        net.layer(width, 256)
        net.layer(width, width)
        net.layer(width, int(config["pooled_projection_dim"]))
        net.layer(width, width)
        net.layer(int(config["caption_projection_dim"]), int(config["joint_attention_dim"]))

    def block(net: NetSize, number: int, trained: bool, last: bool, reads: int) -> None:
        second = number in dual
        net.modulating((9 if second else 6) * width, width)
        net.modulating((2 if last else 6) * width, width)
        for _ in range(7 if last else 8):  # query, key and value of image and text, and the outputs
            net.layer(width, width, group="attention")
        vectors = 4
        if second:
            for _ in range(4):
                net.layer(width, width, group="attention")
            vectors += 2
        if config.get("qk_norm"):
            net.weights += vectors * int(config["attention_head_dim"])
            net.adafactor += vectors * int(config["attention_head_dim"])
        for _ in range(1 if last else 2):  # the MLPs of image and text
            net.layer(4 * width, width, group="linear")
            net.layer(width, 4 * width, group="linear")
        kept = kept_by_block(width, image, text, trained, second, last)
        net.unit(kept, width * (image + text), WORKING * residual, WORKING * residual, reads)

    denoiser, control = NetSize(), NetSize()
    embed(denoiser)
    denoiser.part = "blocks"
    denoiser.adapt(learned)
    for number in range(blocks):
        last = number + 1 == blocks
        block(denoiser, number, trained_base, last, 0 if last or not learned.control else residual)
    denoiser.part = ""
    denoiser.layer(2 * width, width)
    denoiser.layer(patch * patch * int(config.get("out_channels") or config["in_channels"]), width)
    denoiser.unit(residual, residual)
    text_size = text * int(config["joint_attention_dim"])
    if not trained_base:
        denoiser.units = [replace(unit, trained=0) for unit in denoiser.units]
    if not learned.control:
        return Sizes(denoiser, denoiser.of_adapters(), NetSize(), 0, text_size)
    control.rank = learned.rank
    embed(control)
    wanted = control_blocks(blocks, learned.blocks or CONTROL_BLOCKS)
    for number in range(wanted):
        block(control, number, True, False, 0)
        control.writes(residual * ((blocks - 1) // wanted))
    control.rank = 0
    for _ in range(wanted):
        control.layer(width, width)
    control.layer(width, int(config["in_channels"]), patch)
    control.unit(wanted * residual, wanted * residual)
    return Sizes(denoiser, control, NetSize(), wanted * residual, text_size)


def kept_by_block(width: int, image: int, text: int, trained: bool, second: bool, last: bool) -> int:
    """What a block keeps for the backward pass.

    Args:
        image, text: tokens.
        second: it has a second attention, over the image alone.
        last: it has no output for the text.
    """
    which = 1 if trained else 0
    of_image = IMAGE_KEPT[which] + (SECOND_ATTENTION_KEPT[which] if second else 0)
    return width * (of_image * image + (LAST_TEXT_KEPT if last else TEXT_KEPT)[which] * text)


def control_blocks(of_base: int, wanted: int) -> int:
    """The largest number of blocks, up to ``wanted``, that divides the base's: loaders repeat each output evenly.

    The base's last block has no output for the text, so it cannot be copied.
    """
    return next(blocks for blocks in range(min(wanted, of_base - 1), 0, -1) if of_base % blocks == 0)
