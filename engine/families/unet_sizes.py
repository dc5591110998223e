"""Sizes of a base's UNet and of a ControlNet for it, counted from the UNet's config.json alone.

The structure is that of diffusers' UNet2DConditionModel and ControlNetModel. Parameters are exact; activations are the
tensors that autograd keeps, without small change such as the norms' statistics. engine/estimate/peak.py says when how
many of them are there at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

ORIGINAL_HINT, SMALL_HINT, ORIGINAL_TRUNK = (16, 32, 96, 256), (8, 16, 32, 64), 320  # as engine.families.base builds it


@dataclass(frozen=True)
class Unit:
    """Elements of one image, of what is computed twice as one where gradients are checkpointed."""

    entry: int
    """Kept between, with checkpointing."""
    inside: int
    """Kept between without it; with it, there while the unit is computed again."""
    passing: int
    """Gradients on their way, beside ``inside``, at the fullest moment of its backward pass."""
    working: int
    """There at the fullest moment of its forward pass where nothing is kept, beside what it reads."""
    skip: int
    """A residual that the ControlNet writes here, or that the decoder reads here."""
    learning: int
    """Numbers that learn, since the unit before."""


@dataclass
class Tally:
    """Counts of one net. The elements are those that autograd keeps of one image until the backward pass."""

    weights: int = 0
    """Parameters."""
    factored: int = 0
    """Numbers in Adafactor's memory: a row and a column of each matrix, over the last two axes of each kernel."""
    normal: int = 0
    """Elements around norms and activations."""
    plain: int = 0
    """Elements that convolutions, linear layers and attention keep."""
    units: list[Unit] = field(default_factory=list)
    """In the order of the forward pass."""
    noted: int = 0
    """Of the numbers that learn those in ``units``."""
    rank: int = 0
    """Of a Control-LoRA, while the layers are counted that it shares with the base."""
    shared: int = 0
    """Of the parameters those that are the base's."""
    thin: int = 0
    """Numbers in the thin matrices beside them."""

    @property
    def learning(self) -> int:
        """Numbers that learn."""
        return self.weights - self.shared + self.thin

    def layer(self, out: int, inner: int, kernel: int | None = None, bias: bool = True) -> None:
        """A convolution of kernel x kernel, or a linear layer."""
        side, more = kernel or 1, out if bias else 0
        whole, thin = out * inner * side**2, self.rank * (out + inner * side**2)
        self.weights += whole + more
        if 0 < thin < whole:
            self.shared += whole
            self.thin += thin
            rows = 2 * self.rank * (out + inner * side) if kernel else 2 * self.rank + out + inner
            self.factored += rows + more
        else:
            self.factored += (2 * out * inner * kernel if kernel else out + inner) + more

    def norm(self, channels: int) -> None:
        self.weights += 2 * channels
        self.factored += 2 * channels

    def keep(self, normal: int, plain: int, at_entry: int, passing: int = 0, working: int = 0, skip: int = 0) -> None:
        """A unit's elements, of which ``at_entry`` remain with gradient checkpointing."""
        self.normal += normal
        self.plain += plain
        self.units.append(Unit(at_entry, normal + plain, passing, working, skip, self.learning - self.noted))
        self.noted = self.learning


@dataclass(frozen=True)
class Net:
    """What the two nets of a run amount to, at one resolution."""

    unet: Tally
    controlnet: Tally
    decoder: Tally
    """Of the UNet's weights those behind the middle; their activations are the UNet's."""
    residuals: int
    """Elements of what the ControlNet hands to the UNet for one image."""


def resnet(t: Tally, cin: int, cout: int, temb: int, area: int, learns: bool, skip: int = 0) -> None:
    t.norm(cin)
    t.layer(cout, cin, 3)
    t.layer(cout, temb)
    t.norm(cout)
    t.layer(cout, cout, 3)
    if cin != cout:
        t.layer(cout, cin, 1)
    # Norms keep their inputs, SiLU keeps the norms' outputs; kernels that learn keep what they read, and thin matrices
    # what passes between them.
    between = t.rank * (3 if cin != cout else 2) * area
    t.keep(
        2 * (cin + cout) * area, ((cin + cout) * area + temb + between if learns else 0), cin * area,
        2 * cout * area, 2 * cin * area, skip,
    )  # fmt: skip


def transformer(
    t: Tally, c: int, depth: int, context: int, tokens: int, words: int, linear: bool, learns: bool
) -> None:
    kernel = None if linear else 1
    t.norm(c)
    t.layer(c, c, kernel)
    t.layer(c, c, kernel)
    t.keep(c * tokens, 2 * (c + t.rank) * tokens if learns else 0, (3 if learns else 1) * c * tokens)
    for _ in range(depth):
        for _ in range(3):
            t.norm(c)
        for width in (c, context):  # attention within the image, then to the text
            t.layer(c, c, bias=False)
            t.layer(c, width, bias=False)
            t.layer(c, width, bias=False)
            t.layer(c, c)
        t.layer(8 * c, c)
        t.layer(c, 4 * c)
        # Attention keeps query, key, value and answer; the gated layer its 8 c and the gate's 4 c.
        plain = (4 + 2 + 12) * c * tokens + 2 * c * words
        # What learns keeps the norms' outputs, both answers brought back together, and the gated product.
        plain += (3 + 2 + 4) * c * tokens + t.rank * (8 * tokens + 2 * words) if learns else 0
        # Backward, three times the gated layer's 4 c on their way, and twice the answer's; what learns lets go of the
        # gated product before. Forward, the gated layer's 16 c.
        t.keep(3 * c * tokens, plain, c * tokens, (10 if learns else 14) * c * tokens, 18 * c * tokens)


def count(
    unet: dict[str, Any], resolution: int, words: int = 77, decoder_learns: bool = False, control_lora_rank: int = 0
) -> Net:
    """Count both nets of a base.

    Args:
        unet: the UNet's config.json.
        resolution: side of the images in pixels.
        words: tokens of a prompt.
        decoder_learns: the base is not locked.
        control_lora_rank: 0: the whole ControlNet learns.
    """
    channels, layers = list(unet["block_out_channels"]), int(unet.get("layers_per_block", 2))
    head, temb = channels[0], channels[0] * 4
    blocks = len(channels)
    depths = unet.get("transformer_layers_per_block", 1)
    depths = [depths] * blocks if isinstance(depths, int) else list(depths)
    context, linear = int(unet["cross_attention_dim"]), bool(unet.get("use_linear_projection"))
    attends = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    areas = [(resolution // 8 // 2**level) ** 2 for level in range(blocks)]

    def encoder(t: Tally, learns: bool) -> list[tuple[int, int]]:
        """The half that both nets have; channels and area of each of its outputs."""
        t.layer(head, unet.get("in_channels", 4), 3)
        t.layer(temb, head)
        t.layer(temb, temb)
        if unet.get("addition_embed_type") == "text_time":
            t.layer(temb, unet["projection_class_embeddings_input_dim"])
            t.layer(temb, temb)
        outputs, cin = [(head, areas[0])], head
        for level, cout in enumerate(channels):
            for _ in range(layers):
                resnet(t, cin, cout, temb, areas[level], learns)
                if attends[level]:
                    transformer(t, cout, depths[level], context, areas[level], words, linear, learns)
                outputs.append((cout, areas[level]))
                t.units[-1] = replace(t.units[-1], skip=cout * areas[level])
                cin = cout
            if level < blocks - 1:
                t.layer(cout, cout, 3)
                t.keep(0, cout * areas[level] if learns else 0, cout * areas[level] if learns else 0)
                outputs.append((cout, areas[level + 1]))
                t.units[-1] = replace(t.units[-1], skip=cout * areas[level + 1])
        return outputs

    def middle(t: Tally, learns: bool) -> None:
        resnet(t, channels[-1], channels[-1], temb, areas[-1], learns)
        t.units[-1] = replace(t.units[-1], entry=t.units[-1].inside)  # diffusers never computes this one twice
        transformer(t, channels[-1], depths[-1], context, areas[-1], words, linear, learns)
        resnet(t, channels[-1], channels[-1], temb, areas[-1], learns)

    net, control = Tally(), Tally()
    outputs = encoder(net, False)
    middle(net, False)
    net.normal = net.plain = 0  # nothing before the control comes in needs a gradient
    net.units, net.noted = [], net.weights
    encoder_weights, encoder_factored = net.weights, net.factored
    back, before = channels[::-1], channels[-1]
    for level, cout in enumerate(back):
        beyond, area = back[min(level + 1, blocks - 1)], areas[blocks - 1 - level]
        for layer in range(layers + 1):
            skip = beyond if layer == layers else cout
            cin = (before if layer == 0 else cout) + skip
            resnet(net, cin, cout, temb, area, decoder_learns, skip * area)
            if "CrossAttn" in unet["up_block_types"][level]:
                depth = depths[blocks - 1 - level]
                transformer(net, cout, depth, context, area, words, linear, decoder_learns)
        if level < blocks - 1:
            net.layer(cout, cout, 3)
        before = cout
    net.norm(head)
    net.layer(unet.get("out_channels", 4), head, 3)
    net.keep(2 * head * areas[0], 0, 2 * head * areas[0])

    if not decoder_learns:
        net.units = [replace(unit, learning=0) for unit in net.units]

    hint = ORIGINAL_HINT if head >= ORIGINAL_TRUNK else tuple(min(width, head) for width in SMALL_HINT)
    control.layer(hint[0], 3, 3)
    kept = 3 * resolution**2
    for level, width in enumerate(hint):
        side = (resolution // 2**level) ** 2
        if level + 1 < len(hint):
            control.layer(width, width, 3)
            control.layer(hint[level + 1], width, 3)
        kept += 2 * width * (2 if level + 1 < len(hint) else 1) * side  # before and after SiLU
    full = 2 * hint[0] * resolution**2
    control.keep(0, kept, 3 * resolution**2, full, full)
    control.rank = control_lora_rank
    encoder(control, True)
    middle(control, True)
    control.rank = 0
    control.layer(head, hint[-1], 3)
    for width, _ in outputs:
        control.layer(width, width, 1)
    control.layer(channels[-1], channels[-1], 1)
    control.keep(0, channels[-1] * areas[-1], channels[-1] * areas[-1])
    decoder = Tally(net.weights - encoder_weights, net.factored - encoder_factored)
    residuals = sum(width * area for width, area in outputs) + channels[-1] * areas[-1]
    return Net(net, control, decoder, residuals)
