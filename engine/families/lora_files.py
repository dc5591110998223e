"""LoRA files of other programs: which weights of a base they change, and by how much.

Names of every program are read: kohya's (``lora_unet_...``, with diffusers' or the original code's block names),
diffusers' of all ages, peft's and ComfyUI's. A layer's weight becomes W + weight * (alpha / r) * up @ down (Hu et al.
2021, arXiv 2106.09685); without an alpha, alpha is r. LoHa and LoKr files: ``weight_delta.py``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import UserError
from engine.families.adapter_checks import LYCORIS, duplicate_layer, no_layers, require_complete, require_usable
from engine.families.adapter_kinds import is_lora, made_for, other_method
from engine.families.family_facts import FamilyFacts
from engine.families.pickled import load_tensors
from engine.families.text_names import TEXT_PREFIXES
from engine.families.unet_names import original_names
from engine.families.weight_delta import LowRank, Lycoris, WeightDelta
from engine.machine.errors import is_of_machine

ROLES: dict[str, str] = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_down": "down",
    ".lora_up": "up",
    ".diff": "diff",
    ".diff_b": "bias",
} | {f".{name}": name for name in LYCORIS}
"""Ends of tensor names, and what such a tensor is."""


WeightDeltas = dict[str, dict[str, WeightDelta]]
"""Part of a base (``unet``, ``text_encoder`` ...) -> name of a tensor in it, as diffusers has it -> what is added."""


@dataclass(frozen=True)
class AdapterFile:
    """The tensors of a file, and what its header says."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]

    @property
    def changes_text(self) -> bool:
        """Whether it changes a text encoder."""
        prefixes = tuple(prefix for listed in TEXT_PREFIXES.values() for prefix in listed)
        return any(name.startswith((*prefixes, "text_encoder")) for name in self.tensors)

    @property
    def is_lora(self) -> bool:
        """Whether its tensors have the names of a LoRA."""
        return is_lora(list(self.tensors))


def open_adapter(path: Path) -> AdapterFile:
    """Read a LoRA or embedding file. No code in it is run.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return AdapterFile(path, {name: file.get_tensor(name) for name in names}, file.metadata() or {})
        return AdapterFile(path, _flat(load_tensors(path, "cpu")), {})
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path.name} was not opened.",
            "It contains more than numbers, such as program code that would run on your computer, or it is damaged.",
            "Get the same file as .safetensors; such files cannot contain code.",
        ) from error
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, EOFError, KeyError, AttributeError) as error:
        if is_of_machine(error):
            raise
        raise UserError(
            f"{path.name} cannot be read.",
            f"It is damaged, or not a LoRA or embedding file ({type(error).__name__}).",
            "Download it again, as .safetensors where there is a choice.",
        ) from error


def _flat(loaded: Any) -> dict[str, torch.Tensor]:
    """Tensors of a pickled file by name, those of dictionaries inside it with both names."""
    found: dict[str, torch.Tensor] = {}
    for name, value in dict(loaded).items():
        if isinstance(value, torch.Tensor):
            found[str(name)] = value
        elif isinstance(value, Mapping):
            found |= {f"{name}.{inner}": tensor for inner, tensor in _flat(value).items()}
    return found


def lora_deltas(file: AdapterFile, shapes: Mapping[str, Mapping[str, torch.Size]], family: FamilyFacts) -> WeightDeltas:
    """What a LoRA file adds to a base.

    Args:
        shapes: of the base's tensors, by part and diffusers name. Text encoders with the names ``text_model. ...``.
        family: of the base.

    Raises:
        UserError: it is an adapter of another kind, or for another base.
    """
    if method := other_method(list(file.tensors)):
        raise UserError(
            f"{file.path.name} cannot be used.",
            f"It is a {method} file, and only LoRA, LoHa and LoKr files can be merged.",
            "Use a LoRA of the same subject or style, or merge it into the base with the program that made it.",
        )
    require_usable(file.path, file.tensors)
    aliases = dict(_aliases(shapes))
    grouped, unknown = _grouped(file.path, file.tensors, aliases)
    if unknown and family.denoiser != "unet":
        grouped, unknown = _grouped(file.path, _by_diffusers(file.tensors, family), aliases)
    if not grouped:
        raise _other_family(file, family.title, _made_for(file.tensors))
    changes: WeightDeltas = {}
    for (part, module), roles in grouped.items():
        require_complete(file.path, module, roles)
        for weight, change in _changes_of(file, part, module, roles):
            shape = shapes[part].get(weight)
            if shape is None or not change.fits(shape):
                raise _other_family(file, family.title, _made_for(file.tensors), module)
            changes.setdefault(part, {})[weight] = change
    if not changes:
        raise no_layers(file.path)
    if unknown:
        raise UserError(
            f"{file.path.name} does not fit this base.",
            f"A {family.title} base has no layer for some of its tensors, such as {unknown[0]}.",
            "Use a LoRA that was made for this kind of base.",
        )
    return changes


def _grouped(
    path: Path, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, tuple[str, str]]
) -> tuple[dict[tuple[str, str], dict[str, torch.Tensor]], list[str]]:
    """The tensors of each layer (part, module) by what they are, and names that belong to no layer.

    Raises:
        UserError: two tensors say the same of one layer.
    """
    grouped: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        layer, role = _role(name)
        place = aliases.get(layer)
        if role == "" or place is None:
            unknown.append(name)
        elif role in grouped.setdefault(place, {}):
            raise duplicate_layer(path, place[1])
        else:
            grouped[place][role] = tensor
    return grouped, unknown


def _by_diffusers(tensors: Mapping[str, torch.Tensor], family: FamilyFacts) -> Mapping[str, torch.Tensor]:
    """A transformer's LoRA as diffusers' own converters rename it: other programs fuse layers that diffusers splits.

    What they cannot convert stays as it is.
    """
    import diffusers

    try:
        found: Any = getattr(diffusers, family.pipeline).lora_state_dict(dict(tensors))
    except (ValueError, KeyError, IndexError, RuntimeError, AttributeError, TypeError):
        return tensors  # names that no converter knows; the caller says which
    named, alphas = found if isinstance(found, tuple) else (found, None)
    return {**named, **{name: torch.tensor(alpha) for name, alpha in (alphas or {}).items()}}


def _role(name: str) -> tuple[str, str]:
    """The layer that a tensor belongs to, and what it is; ("", "") if its name is of no known form."""
    for ending in sorted(ROLES, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending), ROLES[ending]
    return "", ""


def _changes_of(
    file: AdapterFile, part: str, module: str, roles: Mapping[str, torch.Tensor]
) -> Iterable[tuple[str, WeightDelta]]:
    if "diff" in roles:
        yield f"{module}.weight", LowRank(roles["diff"], None, None, 1.0)
    if "bias" in roles:
        yield f"{module}.bias", LowRank(roles["bias"], None, None, 1.0)
    if of_lycoris := {name: tensor for name, tensor in roles.items() if name in LYCORIS}:
        yield f"{module}.weight", Lycoris(of_lycoris, float(roles["alpha"]) if "alpha" in roles else None)
    if "down" in roles and "up" in roles:
        rank = (*roles["down"].shape, 1)[0]  # a single number has no shape; it does not fit
        alpha = float(roles["alpha"]) if "alpha" in roles else _alpha_told(file.metadata, part, module, rank)
        yield f"{module}.weight", LowRank(roles["down"], roles["up"], roles.get("mid"), alpha / rank)


def _alpha_told(metadata: Mapping[str, str], part: str, module: str, rank: int) -> float:
    """The alpha of a layer from diffusers' metadata of an adapter; the rank if it tells none."""
    try:
        told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return float(rank)
    patterns = told.get(f"{part}.alpha_pattern") or {}
    alpha = next((value for end, value in patterns.items() if f".{module}".endswith(f".{end}")), None)
    alpha = float(alpha if alpha is not None else told.get(f"{part}.lora_alpha") or rank)
    return alpha * rank**0.5 if told.get(f"{part}.use_rslora") else alpha


def _aliases(shapes: Mapping[str, Mapping[str, torch.Size]]) -> Iterable[tuple[str, tuple[str, str]]]:
    """Names that files have for each layer of a base, each with the part and module that it means."""
    for part, tensors in shapes.items():
        modules = sorted({name.rpartition(".")[0] for name in tensors})
        original = original_names(modules) if part == "unet" else {}
        for module in modules:
            place = (part, module)
            for name in (module, original.get(module, module)):
                yield f"{part}.{name}", place
                yield f"base_model.model.{name}", place
                if part.startswith("text_encoder"):
                    yield from ((prefix + name.replace(".", "_"), place) for prefix in TEXT_PREFIXES[part])
                    yield f"{part}.{name.removeprefix('text_model.')}", place
                else:
                    yield name, place
                    yield f"diffusion_model.{name}", place
                    for prefix in ("lora_unet_", "lora_transformer_", "lycoris_"):
                        yield prefix + name.replace(".", "_"), place
            if (processor := _processor_name(module)) is not None:
                yield f"{part}.{processor}", place
                yield processor, place


def _processor_name(module: str) -> str | None:
    """The name of an attention's layer in diffusers' first LoRA files: "...attn1.processor.to_q"."""
    if match := re.fullmatch(r"(.*\.attn\d)\.(to_[qkv]|to_out)(\.0)?", module):
        return f"{match[1]}.processor.{match[2]}"
    if match := re.fullmatch(r"(.*\.self_attn)\.([qkv]|out)_proj", module):
        return f"{match[1]}.to_{match[2]}"
    return None


def _made_for(tensors: Mapping[str, torch.Tensor]) -> str:
    """The kind of base that a LoRA's widths tell; "" if they tell none."""
    facts = made_for({name: list(tensor.shape) for name, tensor in tensors.items()})
    return facts.title if facts else ""


def _other_family(file: AdapterFile, family: str, made_for: str, layer: str = "") -> UserError:
    """
    Args:
        made_for: title of the family that the file's widths tell; "" if they tell none.
        layer: one that the base has, and that the file's tensors for it do not fit.
    """
    why = f"Its layers are not those of a {family} base."
    if layer:
        why = f"Its tensors for the layer {layer} do not fit each other, or not that layer of this {family} base."
    if made_for not in ("", family):
        why = f"It was made for {made_for}, and the base is {family}."
    return UserError(
        f"{file.path.name} does not fit this base.", why, "Use a file that was made for this kind of base."
    )
