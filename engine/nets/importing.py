"""Imports a ControlNet from any of the formats, checked against the base that it is meant for.

What its shapes do not show (attention heads, norm groups) is taken from the base; what they show has to fit the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file

from engine.errors import UserError
from engine.families.control_files import ControlFiles
from engine.families.facts import control_files
from engine.families.parts import file_tensors
from engine.families.registry import Family
from engine.machine.net_lock import NET_LOCK
from engine.machine.units import counted
from engine.nets import low_rank_math
from engine.nets.controlnet_files import CONFIG, WEIGHTS, check_fits
from engine.nets.outputs import empty_net
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
    found = file.files or next((kind for kind in control_files() if kind.trigger in file.tensors), None)
    if found not in (None, family.facts.control_files):
        raise UserError(
            f"{file.path.name} does not fit the base {base}.",
            f"It is a ControlNet for another kind of base than {family.title}.",
            "Choose the base that it was made for.",
        )
    base_config = family.denoiser_config(base)
    expected = expected_config(family, base_config)
    tensors, config = file.tensors, file.config
    if file.needs_base:
        copied = copied_weights(family, base)
        if file.format == "control_lora":
            tensors = restore_control_lora(tensors, expected, copied, file.path.name, family.facts.control_files)
        else:
            tensors = {n: t + copied[n].to(t.dtype) if n in copied else t for n, t in tensors.items()}
    kind = family.facts.control_files
    shown = kind.config_from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, file.path.name)
    check_fits(shown, base_config, file.path.name, base, family.facts)
    config = config or expected | {name: shown[name] for name in kind.own_entries}
    check_tensors(config, tensors, file)
    return Imported(config, tensors, file.format, file.metadata)


def open_controlnet(path: Path | str, family: Family, base: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load a net of any format, to train from or to draw with.

    Raises:
        UserError: see ``read_controlnet``.
    """
    found = read_controlnet(path, family, base)
    net = empty_net(found.config)
    net.load_state_dict({name: tensor.to(dtype) for name, tensor in found.tensors.items()}, assign=True)
    return net


def store(found: Imported, folder: Path) -> None:
    """Write a net as a diffusers folder in fp32, the way checkpoints hold it."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(found.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {name: tensor.float().contiguous() for name, tensor in found.tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def expected_config(family: Family, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a new net for a base whose denoiser has this config. Takes no memory for weights."""
    with NET_LOCK, init_empty_weights():
        net = family.new_controlnet(getattr(diffusers, family.facts.denoiser_class).from_config(dict(denoiser)))
    # diffusers ignores the values of entries that it lists as left at their defaults.
    left_out = ("_name_or_path", "_use_default_values")
    return {name: value for name, value in dict(net.config).items() if name not in left_out} | {
        "_class_name": family.facts.net_class
    }


def copied_weights(family: Family, base: str) -> Mapping[str, torch.Tensor]:
    """The base's weights that a new control net copies: fp32, by the net's names, as its file has them.

    Each is read when it is asked for. A base in .ckpt or .bin files is loaded whole instead, in fp32.
    """
    layers = family.layers
    found = file_tensors(base, family.facts.denoiser, layers.origins or layers.copied)
    if found is not None:
        return found.renamed(layers.in_control_net)
    weights = family.load_denoiser(base, torch.float32).state_dict()
    named = {layers.in_control_net(name): weight for name, weight in weights.items()}
    return {name: weight for name, weight in named.items() if name.startswith(layers.copied)}


def restore_control_lora(
    tensors: Tensors, config: Mapping[str, Any], copied: Mapping[str, torch.Tensor], file: str, kind: ControlFiles
) -> Tensors:
    """The whole net, fp32 under diffusers names, from a Control-LoRA under its file's names.

    Args:
        config: of a net for the base.
        copied: from ``copied_weights``.
        file: the file's name, for the error.
        kind: of the base's family.

    Raises:
        UserError: it was made for a base of another shape.
    """
    try:
        named = kind.lora_names(tensors, config)
    except UserError as error:
        raise low_rank_math.wrong_base(file, "its parts have other names") from error
    return low_rank_math.restore(named, copied, file)


def check_tensors(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], file: NetFile) -> None:
    """Check names, shapes and values against the net of a config.

    Raises:
        UserError: names the first difference.
    """
    shapes = {name: tuple(weight.shape) for name, weight in empty_net(dict(config)).state_dict().items()}
    missing, extra = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    misshapen = [name for name in shapes.keys() & tensors.keys() if tuple(tensors[name].shape) != shapes[name]]
    for words, names in (("lacks", missing), ("has also", extra), ("has in a different shape", misshapen)):
        if names:
            raise UserError(
                f"{file.path.name} does not fit this base.",
                f"It {words} {min(names)} ({len(names):,} of {counted(len(shapes), 'tensor')}).",
                "Choose the base that it was made for.",
            )
    broken = next((name for name, tensor in tensors.items() if not tensor.float().isfinite().all()), None)
    if broken:
        raise UserError(
            f"{file.path.name} is broken.",
            f"Its weights contain NaN or infinity (first in {broken}).",
            "Download or copy it again.",
        )
