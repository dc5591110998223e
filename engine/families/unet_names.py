"""Module names of a UNet in the original code (LDM), by those of diffusers. For SD 1.x, SD 2.x and SDXL.

LDM numbers its blocks consecutively: ``input_blocks.0`` is the first convolution, then each residual layer has a number
(``.0`` the residual block, ``.1`` its transformer), and so has each downsampling. An upsampling has the number of the
layer before it. A ControlNet's copied half has the same names (``ldm_keys.py``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
EMBEDDINGS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # SDXL: size, crop and pooled text
    "add_embedding.linear_2": "label_emb.0.2",
}


def encoder_names(layers: Sequence[int], attention: Sequence[bool], downsamplings: int) -> dict[str, str]:
    """The names of the half of a UNet that a ControlNet copies: embeddings, down blocks and middle.

    Args:
        layers: residual layers of each down block.
        attention: whether these have transformers.
        downsamplings: the first blocks, as many as this, end with one.
    """
    names, number = {**EMBEDDINGS, "conv_in": "input_blocks.0.0"}, 0
    for block, count in enumerate(layers):
        for layer in range(count):
            number += 1
            _add_layer(names, f"down_blocks.{block}", layer, f"input_blocks.{number}", attention[block])
        if block < downsamplings:
            number += 1
            names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    _add_residual(names, "mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    _add_residual(names, "mid_block.resnets.1", "middle_block.2")
    return names


def original_names(modules: Iterable[str]) -> dict[str, str]:
    """The original name of each module that has one.

    Args:
        modules: all modules of the UNet that have weights, by diffusers name.
    """
    modules = list(modules)
    prefixes = _block_names(modules)
    found = {}
    for module in modules:
        start = next((start for start in _starts(module) if start in prefixes), None)
        if start is not None:
            found[module] = prefixes[start] + module[len(start) :]
    return found


def _starts(module: str) -> Iterable[str]:
    """A module's name, and those of the modules around it, outermost first."""
    words = module.split(".")
    return (".".join(words[:count]) for count in range(1, len(words) + 1))


def _block_names(modules: Iterable[str]) -> dict[str, str]:
    layers: dict[str, set[int]] = defaultdict(set)  # e.g. "down_blocks.0.resnets" -> {0, 1}
    for module in modules:
        words = module.split(".")
        if words[0] in ("down_blocks", "up_blocks") and len(words) > 3:
            layers[".".join(words[:3])].add(int(words[3]))
    down, up = _blocks(layers, "down_blocks"), _blocks(layers, "up_blocks")
    names = encoder_names(
        [len(layers[f"{place}.resnets"]) for place in down],
        [bool(layers[f"{place}.attentions"]) for place in down],
        sum(bool(layers[f"{place}.downsamplers"]) for place in down),
    )
    names |= {"conv_norm_out": "out.0", "conv_out": "out.2"}
    number = -1
    for place in up:
        attention = bool(layers[f"{place}.attentions"])
        for layer in sorted(layers[f"{place}.resnets"]):
            number += 1
            _add_layer(names, place, layer, f"output_blocks.{number}", attention)
        names[f"{place}.upsamplers.0.conv"] = f"output_blocks.{number}.{2 if attention else 1}.conv"
    return names


def _blocks(layers: Mapping[str, set[int]], kind: str) -> list[str]:
    numbers = {int(name.split(".")[1]) for name in layers if name.startswith(f"{kind}.")}
    return [f"{kind}.{number}" for number in sorted(numbers)]


def _add_layer(names: dict[str, str], place: str, layer: int, original: str, attention: bool) -> None:
    _add_residual(names, f"{place}.resnets.{layer}", f"{original}.0")
    if attention:
        names[f"{place}.attentions.{layer}"] = f"{original}.1"


def _add_residual(names: dict[str, str], ours: str, original: str) -> None:
    for part, theirs in RESIDUAL.items():
        names[f"{ours}.{part}"] = f"{original}.{theirs}"
