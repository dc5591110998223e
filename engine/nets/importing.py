"""Imports a ControlNet from any of the formats, checked against the base that it is meant for.

What its shapes do not show (attention heads, norm groups) is taken from the base; what they show has to fit the base.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

from engine.errors import UserError
from engine.families.parts import file_tensors
from engine.families.registry import Family
from engine.machine.units import counted
from engine.nets import low_rank_math
from engine.nets.controlnet_files import CONFIG, WEIGHTS, check_fits
from engine.nets.ldm_keys import rename_from_ldm
from engine.nets.reading import NetFile, read_net_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Imported:
    """A ControlNet that was read and fits its base."""

    config: dict[str, Any]
    tensors: Tensors
    """Under diffusers names, in the file's precision (a Control-LoRA's: fp32)."""
    format: str
    metadata: dict[str, str]
    """The metadata of the file's header."""


def read_controlnet(path: Path | str, family: Family, base: str) -> Imported:
    """Read a net and check it.

    Args:
        path: a folder or file of any kind that ``read_net_file`` knows.
        base: a located base of that family, for which the net is meant.

    Raises:
        UserError: it is missing, damaged, not a ControlNet, of another family or channel count, or not finite.
    """
    file = read_net_file(path)
    base_config = family.denoiser_config(base)
    expected = expected_config(family, base_config)
    tensors, config = file.tensors, file.config
    if file.needs_base:
        copied = copied_weights(family, base)
        if file.format == "control_lora":
            tensors = restore_control_lora(tensors, expected, copied, file.path.name)
        else:
            tensors = {n: t + copied[n].to(t.dtype) if n in copied else t for n, t in tensors.items()}
    shown = config_from_shapes(tensors, file.path.name)
    check_fits(shown, base_config, file.path.name, base, family.facts)
    encoder = {"conditioning_embedding_out_channels": shown["conditioning_embedding_out_channels"]}
    config = config or expected | encoder
    check_tensors(config, tensors, file)
    return Imported(config, tensors, file.format, file.metadata)


def open_controlnet(path: Path | str, family: Family, base: str, dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """Load a net of any format, to train from or to draw with.

    Raises:
        UserError: see ``read_controlnet``.
    """
    found = read_controlnet(path, family, base)
    with init_empty_weights():
        net = ControlNetModel.from_config(found.config)
    net.load_state_dict({name: tensor.to(dtype) for name, tensor in found.tensors.items()}, assign=True)
    return net


def store(found: Imported, folder: Path) -> None:
    """Write a net as a diffusers folder in fp32, the way checkpoints hold it."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(found.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {name: tensor.float().contiguous() for name, tensor in found.tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def expected_config(family: Family, unet: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a new net for a base with this UNet config. Takes no memory for weights."""
    with init_empty_weights():
        trunk = UNet2DConditionModel.from_config(dict(unet))
        net = family.new_controlnet(trunk)
    return {name: value for name, value in dict(net.config).items() if name != "_name_or_path"} | {
        "_class_name": "ControlNetModel"
    }


def copied_weights(family: Family, base: str) -> Mapping[str, torch.Tensor]:
    """The base's weights that a control net begins as a copy of: fp32, by diffusers names, as its file has them.

    Each is read when it is asked for. A base in .ckpt or .bin files is loaded whole instead, in fp32.
    """
    found = file_tensors(base, family.facts.denoiser, family.layers.copied)
    if found is not None:
        return found
    weights = family.load_denoiser(base, torch.float32).state_dict()
    return {name: weight for name, weight in weights.items() if name.startswith(family.layers.copied)}


def restore_control_lora(
    tensors: Tensors, config: Mapping[str, Any], copied: Mapping[str, torch.Tensor], file: str
) -> Tensors:
    """The whole net, fp32 under diffusers names, from a Control-LoRA under LDM names.

    Args:
        config: of a net for the base.
        copied: from ``copied_weights``.
        file: the file's name, for the error.

    Raises:
        UserError: it was made for a base of another shape.
    """
    try:
        named = rename_from_ldm(tensors, config)
    except UserError as error:
        raise low_rank_math.wrong_base(file, "its parts have other names") from error
    return low_rank_math.restore(named, copied, file)


def config_from_shapes(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    """The entries of a ControlNet's config that the shapes of its tensors show.

    Raises:
        UserError: layers are missing.
    """
    try:
        blocks = _count(tensors, "down_blocks.{}.resnets.0.conv1.weight")
        attention = [f"down_blocks.{n}.attentions.0.proj_in.weight" in tensors for n in range(blocks)]
        with_text = [key for key in tensors if key.endswith("attn2.to_k.weight")]
        if not with_text:
            raise UserError(
                f"{name} cannot be used.",
                "It has no attention layers, so it reads no prompt: it is a reduced net that only some programs know.",
                "Choose a whole ControlNet, or a Control-LoRA.",
            )
        pairs = _count(tensors, "controlnet_cond_embedding.blocks.{}.weight") // 2
        widths = [tensors[f"controlnet_cond_embedding.blocks.{2 * n + 1}.weight"].shape[0] for n in range(pairs)]
        first = tensors["controlnet_cond_embedding.conv_in.weight"]
        return {
            "in_channels": tensors["conv_in.weight"].shape[1],
            "conditioning_channels": first.shape[1],
            "conditioning_embedding_out_channels": [first.shape[0], *widths],
            "block_out_channels": [tensors[f"down_blocks.{n}.resnets.0.conv1.weight"].shape[0] for n in range(blocks)],
            "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
            "layers_per_block": _count(tensors, "down_blocks.0.resnets.{}.conv1.weight"),
            "cross_attention_dim": tensors[with_text[0]].shape[1],
        }
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{name} is incomplete.", f"It lacks parts of a ControlNet ({error}).", "Copy or download it again."
        ) from error


def check_tensors(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], file: NetFile) -> None:
    """Check names, shapes and values against the net of a config.

    Raises:
        UserError: names the first difference.
    """
    with init_empty_weights():
        shapes = {name: tuple(w.shape) for name, w in ControlNetModel.from_config(dict(config)).state_dict().items()}
    missing, extra = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    misshapen = [name for name in shapes.keys() & tensors.keys() if tuple(tensors[name].shape) != shapes[name]]
    for words, names in (("lacks", missing), ("has also", extra), ("has in another shape", misshapen)):
        if names:
            raise UserError(
                f"{file.path.name} does not fit this base.",
                f"It {words} {min(names)} ({len(names):,} of {counted(len(shapes), 'tensor')}).",
                "Choose the base that it was made for.",
            )
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken:
        raise UserError(
            f"{file.path.name} is broken.", f"Its weights contain NaN or infinity (first in {broken}).", "Get it again."
        )


def _count(names: Mapping[str, Any], pattern: str) -> int:
    return next(number for number in itertools.count() if pattern.format(number) not in names)
