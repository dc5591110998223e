"""The tensors of a merged base: text encoders under the names that every program knows, and the denoiser's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.families.parts import WEIGHTS, FileTensors
from engine.families.text_names import clip_name
from engine.families.weight_delta import WeightDelta

SHARD_BYTES = 5 * 10**9
"""Largest file that a denoiser is written to, as diffusers splits it; one file is in memory at a time."""


def text_tensors(encoder: Any) -> dict[str, torch.Tensor]:
    """A text encoder's tensors under the names that every program knows (``clip_name``)."""
    found = {}
    for name, tensor in encoder.state_dict().items():
        if not name.endswith("position_ids"):  # a count that transformers makes anew
            found[clip_name(encoder, name)] = tensor
    return found


def load_text_tensors(encoder: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load what ``text_tensors`` returned into a text encoder."""
    own = encoder.state_dict()
    encoder.load_state_dict({name: tensors.get(clip_name(encoder, name), tensor) for name, tensor in own.items()})


def write_denoiser(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    changes: Mapping[str, Sequence[tuple[float, WeightDelta]]],
    on_tensor: Callable[[str], None],
) -> None:
    """Write a denoiser with its changes, one file at a time.

    Args:
        tensors: the base's, by diffusers name.
        changes: by tensor name, each with its weight.
        on_tensor: called with the name of each tensor before it is read.
    """
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2), encoding="utf-8")
    groups = _groups(tensors)
    places: dict[str, str] = {}
    written = 0
    for number, names in enumerate(groups, 1):
        name = WEIGHTS if len(groups) == 1 else WEIGHTS.replace(".s", f"-{number:05d}-of-{len(groups):05d}.s")
        out = {}
        for tensor in names:
            on_tensor(tensor)
            stored = tensors.stored(tensor) if isinstance(tensors, FileTensors) else tensors[tensor]
            out[tensor] = changed(tensor, stored, changes.get(tensor, ())).contiguous()
            places[tensor] = name
        written += sum(tensor.nbytes for tensor in out.values())
        save_file(out, folder / name, {"format": "pt"})
    if len(groups) > 1:
        index = {"metadata": {"total_size": written}, "weight_map": places}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def changed(name: str, stored: torch.Tensor, changes: Sequence[tuple[float, WeightDelta]]) -> torch.Tensor:
    """A tensor with changes, added up in fp32 in their order and then rounded to the tensor's own precision.

    Raises:
        UserError: it becomes larger than that precision can store.
    """
    if not changes:
        return stored
    total = stored.float()
    for weight, change in changes:
        total = total + weight * change.delta(stored.shape)
    rounded = total.to(stored.dtype)
    if stored.isfinite().all() and not rounded.isfinite().all():
        raise UserError(
            "The LoRA files could not be merged into the base.",
            f"At their weights {name} would have values that {str(stored.dtype).removeprefix('torch.')} cannot store.",
            "Enter lower weights, or leave out the file that changes the base so much.",
        )
    return rounded


def _groups(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names of the tensors of each file."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in _sizes(tensors).items():
        if groups[-1] and filled + size > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    if isinstance(tensors, FileTensors):
        return {name: shape.numel() * 2 for name, shape in tensors.shapes().items()}
    return {name: tensor.nbytes for name, tensor in tensors.items()}
