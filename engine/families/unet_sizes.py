"""Sizes of a Stable Diffusion UNet and of a ControlNet for it, counted from the UNet's config.json alone. No torch.

The structure is that of diffusers' UNet2DConditionModel and ControlNetModel. Parameters are exact. Activations are the
tensors that autograd keeps, without small ones such as the norms' statistics. engine/estimate/peak.py says how many of
them exist at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.families.sizes import Learned, NetSize, Sizes

ORIGINAL_CONTROL_CHANNELS = (16, 32, 96, 256)
SMALL_CONTROL_CHANNELS = (8, 16, 32, 64)
ORIGINAL_TRUNK = 320
ONLY_CONTROLNET = Learned()


def control_channels(trunk: int) -> tuple[int, ...]:
    """Widths of the control encoder: the original's, or smaller ones for a small trunk (its first layers run at the
    image's full size)."""
    if trunk >= ORIGINAL_TRUNK:
        return ORIGINAL_CONTROL_CHANNELS
    return tuple(min(channels, trunk) for channels in SMALL_CONTROL_CHANNELS)


def count(
    config: Mapping[str, Any],
    resolution: int,
    tokens: int = 77,
    learned: Learned = ONLY_CONTROLNET,
) -> Sizes:
    """Count a UNet, and the ControlNet for it if one is trained.

    Args:
        config: the UNet's config.json.
        resolution: side of the images in pixels.
        tokens: tokens of a prompt.
        learned: what is trained.
    """
    whole, decoder_trained = learned.base in ("everything", "factors", "svdiff"), learned.base != "nothing"
    channels, layers = list(config["block_out_channels"]), int(config.get("layers_per_block", 2))
    head, temb = channels[0], channels[0] * 4
    blocks = len(channels)
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * blocks if isinstance(depths, int) else list(depths)
    text_width, linear = int(config["cross_attention_dim"]), bool(config.get("use_linear_projection"))
    attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
    areas = [(resolution // 8 // 2**level) ** 2 for level in range(blocks)]

    def encoder(net: NetSize, trained: bool) -> list[tuple[int, int]]:
        """The half that both nets have. Returns channels and area of each of its outputs, which the decoder reads."""
        net.layer(head, config.get("in_channels", 4), 3)
        net.layer(temb, head)
        net.layer(temb, temb)
        if config.get("addition_embed_type") == "text_time":
            net.layer(temb, config["projection_class_embeddings_input_dim"])
            net.layer(temb, temb)
        net.part = "blocks"
        outputs, cin = [(head, areas[0])], head
        for level, cout in enumerate(channels):
            for _ in range(layers):
                _resnet(net, cin, cout, temb, areas[level], trained)
                if attends[level]:
                    _transformer(net, cout, depths[level], text_width, areas[level], tokens, linear, trained)
                outputs.append((cout, areas[level]))
                net.writes(cout * areas[level])
                cin = cout
            if level < blocks - 1:
                net.layer(cout, cout, 3, group="convolution")
                kept = cout * areas[level] if trained else 0
                net.unit(kept, kept)
                outputs.append((cout, areas[level + 1]))
                net.writes(cout * areas[level + 1])
        return outputs

    def middle(net: NetSize, trained: bool) -> None:
        _resnet(net, channels[-1], channels[-1], temb, areas[-1], trained)
        net.units[-1] = replace(net.units[-1], checkpointed=net.units[-1].kept)  # diffusers never checkpoints this one
        _transformer(net, channels[-1], depths[-1], text_width, areas[-1], tokens, linear, trained)
        _resnet(net, channels[-1], channels[-1], temb, areas[-1], trained)

    unet, control = NetSize(), NetSize()
    unet.adapt(learned)
    outputs = encoder(unet, whole)
    middle(unet, whole)
    if not whole and not learned.text:
        unet.frozen_so_far()
    encoder_weights, encoder_adafactor = unet.weights, unet.adafactor
    back, before = channels[::-1], channels[-1]
    for level, cout in enumerate(back):
        beyond, area = back[min(level + 1, blocks - 1)], areas[blocks - 1 - level]
        for layer in range(layers + 1):
            skip = beyond if layer == layers else cout
            cin = (before if layer == 0 else cout) + skip
            _resnet(unet, cin, cout, temb, area, decoder_trained, skip * area)
            if "CrossAttn" in config["up_block_types"][level]:
                depth = depths[blocks - 1 - level]
                _transformer(unet, cout, depth, text_width, area, tokens, linear, decoder_trained)
        if level < blocks - 1:
            unet.layer(cout, cout, 3, group="convolution")
        before = cout
    unet.part = ""
    unet.norm(head)
    unet.layer(config.get("out_channels", 4), head, 3)
    unet.unit(2 * head * areas[0], 2 * head * areas[0])
    if not decoder_trained:
        unet.units = [replace(unit, trained=0) for unit in unet.units]

    decoder = NetSize(unet.weights - encoder_weights, unet.adafactor - encoder_adafactor)
    if learned.base in ("factors", "svdiff"):
        control = unet.of_adapters()
    if learned.vectors:
        control = NetSize(learned.vectors * text_width, learned.vectors + text_width)
    if not learned.control:
        return Sizes(unet, control, decoder, 0, tokens * text_width)
    _control_encoder(control, control_channels(head), resolution)
    control.rank = learned.rank
    encoder(control, True)
    middle(control, True)
    control.rank = 0
    control.layer(head, control_channels(head)[-1], 3)
    for width, _ in outputs:
        control.layer(width, width, 1)
    control.layer(channels[-1], channels[-1], 1)
    control.unit(channels[-1] * areas[-1], channels[-1] * areas[-1])
    residuals = sum(width * area for width, area in outputs) + channels[-1] * areas[-1]
    return Sizes(unet, control, decoder, residuals, tokens * text_width)


def _control_encoder(net: NetSize, widths: tuple[int, ...], resolution: int) -> None:
    """The layers that read the control image at full size, except the last, which joins the trunk."""
    net.layer(widths[0], 3, 3)
    kept = 3 * resolution**2
    for level, width in enumerate(widths):
        area = (resolution // 2**level) ** 2
        if level + 1 < len(widths):
            net.layer(width, width, 3)
            net.layer(widths[level + 1], width, 3)
        kept += 2 * width * (2 if level + 1 < len(widths) else 1) * area  # before and after SiLU
    full = 2 * widths[0] * resolution**2
    net.unit(kept, 3 * resolution**2, full, full)


def _resnet(net: NetSize, cin: int, cout: int, temb: int, area: int, trained: bool, reads: int = 0) -> None:
    net.norm(cin)
    net.layer(cout, cin, 3, group="convolution")
    net.layer(cout, temb, group="convolution")
    net.norm(cout)
    net.layer(cout, cout, 3, group="convolution")
    if cin != cout:
        net.layer(cout, cin, 1, group="convolution")
    kept = (cin + cout) * area  # inputs of the norms (engine/nets/frozen_blocks.py)
    if trained and net.spectral:  # inputs of SiLU, and the products with singular vectors
        kept += (cin + cout) * area + (2 * cout + (min(cin, cout) if cin != cout else 0)) * area
    elif trained:  # inputs of SiLU and of the convolutions, and of the second low-rank factors
        kept += 2 * (cin + cout) * area + temb + (net.rank or net.adapter_rank) * (3 if cin != cout else 2) * area
    net.unit(kept, cin * area, 2 * cout * area, 2 * cin * area, reads)


def _transformer(
    net: NetSize, c: int, depth: int, text_width: int, area: int, tokens: int, linear: bool, trained: bool
) -> None:
    kernel = None if linear else 1
    net.norm(c)
    net.layer(c, c, kernel, group="linear")
    net.layer(c, c, kernel, group="linear")
    rank = net.rank or net.adapter_rank
    net.unit(c * area + (2 * (c + rank) * area if trained else 0), (3 if trained else 1) * c * area)
    for _ in range(depth):
        for _ in range(3):
            net.norm(c)
        for width in (c, text_width):  # self-attention, then cross-attention
            net.layer(c, c, bias=False, group="attention")
            net.layer(c, width, bias=False, group="attention")
            net.layer(c, width, bias=False, group="attention")
            net.layer(c, c, group="attention")
        net.layer(8 * c, c, group="linear")
        net.layer(c, 4 * c, group="linear")
        # Inputs of three norms; query, key, value and output of both attentions; the 8 c of GEGLU.
        kept = 3 * c * area + (4 + 2 + 8) * c * area + 2 * c * tokens
        if trained and net.spectral:  # the products with singular vectors
            kept += 8 * c * area + 2 * min(c, text_width) * tokens
        elif trained:  # outputs of the norms, inputs of the attentions' output layers, GEGLU's gate and product
            kept += (3 + 2 + 4 + 4) * c * area + rank * (8 * area + 2 * tokens)
        # Backward: gradients of GEGLU's 4 c three times, twice those of the output, the gate of a frozen layer again;
        # a trained layer frees GEGLU's product before. Forward: GEGLU's 16 c and two more.
        net.unit(kept, c * area, (10 if trained else 18) * c * area, 18 * c * area)
