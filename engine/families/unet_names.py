"""Module names of a UNet in the original code (LDM), by those of diffusers. For SD 1.x, SD 2.x and SDXL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from engine.families.ldm_keys import EMBEDDINGS, RESIDUAL


def original_names(modules: Iterable[str]) -> dict[str, str]:
    """The original name of each module that has one.

    The original code numbers blocks consecutively: every residual layer, with its transformer, and every downsampling
    has a number among the ``input_blocks``; an upsampling has that of the layer before it.

    Args:
        modules: all modules of the UNet that have weights, by diffusers name.
    """
    modules = list(modules)
    prefixes = _block_names(modules)
    found = {}
    for module in modules:
        start = next((start for start in prefixes if module == start or module.startswith(f"{start}.")), None)
        if start is not None:
            found[module] = prefixes[start] + module[len(start) :]
    return found


def _block_names(modules: Iterable[str]) -> dict[str, str]:
    names = {**EMBEDDINGS, "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    layers: dict[str, set[int]] = defaultdict(set)  # e.g. "down_blocks.0.resnets" -> {0, 1}
    for module in modules:
        words = module.split(".")
        if words[0] in ("down_blocks", "up_blocks") and len(words) > 3:
            layers[".".join(words[:3])].add(int(words[3]))
    number = 0
    blocks = sorted({int(name.split(".")[1]) for name in layers if name.startswith("down_blocks.")})
    for block in blocks:
        place = f"down_blocks.{block}"
        for layer in sorted(layers[f"{place}.resnets"]):
            number += 1
            _add_layer(names, place, layer, f"input_blocks.{number}")
        if layers[f"{place}.downsamplers"]:
            number += 1
            names[f"{place}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    number = -1
    for block in sorted({int(name.split(".")[1]) for name in layers if name.startswith("up_blocks.")}):
        place = f"up_blocks.{block}"
        for layer in sorted(layers[f"{place}.resnets"]):
            number += 1
            _add_layer(names, place, layer, f"output_blocks.{number}")
        behind = 2 if layers[f"{place}.attentions"] else 1
        names[f"{place}.upsamplers.0.conv"] = f"output_blocks.{number}.{behind}.conv"
    _add_residual(names, "mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    _add_residual(names, "mid_block.resnets.1", "middle_block.2")
    return names


def _add_layer(names: dict[str, str], place: str, layer: int, original: str) -> None:
    _add_residual(names, f"{place}.resnets.{layer}", f"{original}.0")
    names[f"{place}.attentions.{layer}"] = f"{original}.1"


def _add_residual(names: dict[str, str], ours: str, original: str) -> None:
    for part, theirs in RESIDUAL.items():
        names[f"{ours}.{part}"] = f"{original}.{theirs}"
