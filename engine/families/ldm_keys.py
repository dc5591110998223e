"""Renames a ControlNet's tensors between diffusers and the original code (LDM). For SD 1.x, SD 2.x and SDXL.

Its copied half has the names of a UNet (``unet_names.py``). Only names differ; shapes and values are the same (SD 1.x
has 4-D ``proj_in`` and ``proj_out`` in both).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from engine.errors import UserError
from engine.families.unet_names import encoder_names

PREFIX = "control_model."
"""Prefix of every name in the oldest files (.pth)."""
OUTPUTS = "zero_convs."
"""Prefix of the zero convolutions, except the one to the middle."""
TRIGGER = f"{OUTPUTS}0.0.weight"
"""ComfyUI and AUTOMATIC1111 recognize these names by this tensor."""
A1111_LORA_MARK = "input_blocks.11.0.in_layers.0.weight"
"""AUTOMATIC1111 takes a Control-LoRA without this tensor for one of SDXL, else for one of SD 1.x."""
HAS_ATTENTION = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """The parts of a net's structure that its names depend on."""

    layers: int
    """Residual layers in each block."""
    attention: tuple[bool, ...]
    """Whether a block's layers have transformers, for each block."""
    control_convolutions: int
    """Convolutions of the control encoder between its first and its last."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Layout:
        """Read it from a ControlNet's config.json.

        Raises:
            UserError: it has blocks that LDM has no name for.
        """
        kinds = config["down_block_types"]
        middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
        unknown = [kind for kind in kinds if kind not in HAS_ATTENTION]
        if middle != "UNetMidBlock2DCrossAttn":
            unknown.append(middle)
        if unknown:
            raise _no_name(f"blocks of the kind {unknown[0]}")
        widths = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
        attention = tuple(HAS_ATTENTION[kind] for kind in kinds)
        return cls(int(config["layers_per_block"]), attention, 2 * (len(widths) - 1))

    @classmethod
    def of_ldm_names(cls, names: Iterable[str]) -> Layout:
        """Read it from LDM names without ``PREFIX``.

        Raises:
            UserError: they are not the names of a ControlNet.
        """
        names = set(names)
        blocks: list[list[bool]] = [[]]
        for number in count(1):
            if f"input_blocks.{number}.0.op.weight" in names:
                blocks.append([])
            elif f"input_blocks.{number}.0.in_layers.0.weight" in names:
                blocks[-1].append(f"input_blocks.{number}.1.norm.weight" in names)
            else:
                break
        control = sum(name.startswith("input_hint_block.") and name.endswith(".weight") for name in names)
        even = len({len(block) for block in blocks}) == 1 and all(len(set(block)) == 1 for block in blocks)
        if TRIGGER not in names or control < 2 or not even:
            raise _no_name("an unknown structure: its blocks are incomplete or uneven", "read")
        return cls(len(blocks[0]), tuple(block[0] for block in blocks), control - 2)


def module_names(layout: Layout) -> dict[str, str]:
    """The LDM name of every module by its diffusers name, both with a trailing dot. No name is a prefix of another."""
    last = len(layout.attention) - 1
    pairs = encoder_names([layout.layers] * (last + 1), layout.attention, last)
    control = ["conv_in", *(f"blocks.{number}" for number in range(layout.control_convolutions)), "conv_out"]
    for number, name in enumerate(control):  # activations have the odd numbers
        pairs[f"controlnet_cond_embedding.{name}"] = f"input_hint_block.{2 * number}"
    for output in range(1 + layout.layers * (last + 1) + last):
        pairs[f"controlnet_down_blocks.{output}"] = f"zero_convs.{output}.0"
    pairs["controlnet_mid_block"] = "middle_block_out.0"
    return {f"{ours}.": f"{theirs}." for ours, theirs in pairs.items()}


def to_ldm(tensors: Mapping[str, T], config: Mapping[str, Any], prefix: str = "") -> dict[str, T]:
    """Rename from diffusers to LDM. The tensors themselves are not touched.

    Raises:
        UserError: the net has layers that LDM has no name for.
    """
    modules = module_names(Layout.of_config(config))
    return {prefix + _rename(name, modules, "written"): tensor for name, tensor in tensors.items()}


def from_ldm(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename from LDM, with or without ``PREFIX``, to diffusers. The structure is read from the names.

    Raises:
        UserError: these are not the names of a ControlNet.
    """
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    modules = {theirs: ours for ours, theirs in module_names(Layout.of_ldm_names(plain)).items()}
    return {_rename(name, modules, "read"): tensor for name, tensor in plain.items()}


def rename_from_ldm(tensors: Mapping[str, T], config: Mapping[str, Any]) -> dict[str, T]:
    """Rename from LDM to diffusers with a known structure: layers may be missing, names may end in .up or .down.

    Raises:
        UserError: a name belongs to no layer of a net of this config.
    """
    modules = {theirs: ours for ours, theirs in module_names(Layout.of_config(config)).items()}
    return {_rename(name, modules, "read"): tensor for name, tensor in tensors.items()}


def _rename(name: str, modules: Mapping[str, str], done: str) -> str:
    end = name.find(".") + 1
    while end:  # every prefix that ends with a dot, shortest first
        if name[:end] in modules:
            return modules[name[:end]] + name[end:]
        end = name.find(".", end) + 1
    raise _no_name(f"a tensor {name}", done)


def _no_name(what: str, done: str = "written") -> UserError:
    return UserError(
        f"The ControlNet cannot be {done} with LDM names.",
        f"It has {what}, which a ControlNet for SD 1.x, SD 2.x or SDXL does not have.",
        "Use a file or folder with diffusers names.",
    )
