"""What makes a LoRA or embedding file unusable for every base: values that are not numbers, parts that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from engine.errors import UserError

LYCORIS = (
    *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "t1", "w2", "w2_a", "w2_b", "t2")),
)
"""Ends of the names of a LoHa's or LoKr's tensors, which also say what they are."""
HALVES = (
    ("up", "down"),
    ("mid", "down"),
    *((f"hada_w{number}_a", f"hada_w{number}_b") for number in (1, 2)),
    *((f"lokr_w{number}_a", f"lokr_w{number}_b") for number in (1, 2)),
    ("hada_w1_a", "hada_w2_a"),
)
"""Tensors of a layer that need each other, by what they are."""
AGAIN = "Download it again, or use another file of the same subject or style."


def require_usable(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a file with values that are not numbers, without a rank, or one that changes nothing.

    Raises:
        UserError: says which tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.numel():
            raise _unusable(path, f"Its tensor {name} is empty: a LoRA of rank 0, or an embedding without vectors.")
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(
                f"{path.name} cannot be used.",
                f"Its tensor {name} has values that are not numbers (NaN or infinite), as after a failed training.",
                "Use a checkpoint of an earlier step, or download it again.",
            )
    alphas = {name: tensor for name, tensor in tensors.items() if name.endswith(".alpha")}
    if several := next((name for name, alpha in alphas.items() if alpha.numel() != 1), ""):
        raise _unusable(path, f"{several} should be one number, and is {alphas[several].numel()}.")
    if alphas and not any(float(alpha) for alpha in alphas.values()):
        raise _unusable(path, "Its alpha is 0 in every layer, so that it changes nothing at any weight.")


def require_complete(path: Path, layer: str, roles: Iterable[str]) -> None:
    """Refuse a layer of which only one of two tensors is there that need each other.

    Args:
        roles: what the layer's tensors are (``lora_files.ROLES``).
    """
    there = set(roles)
    for one, other in HALVES:
        has, lacks = (one, other) if one in there else (other, one)
        if has in there and lacks not in there and lacks != "mid":
            raise _unusable(path, f"It is incomplete: the layer {layer} has {has}, but not {lacks}.")


def duplicate_layer(path: Path, layer: str) -> UserError:
    """The error for a file that has the same tensor of a layer under two names."""
    return _unusable(path, f"It has the layer {layer} twice, under names of two programs.")


def no_layers(path: Path) -> UserError:
    """The error for a file without weights for any layer."""
    return _unusable(path, "It is incomplete: it has no weights for any layer.")


def _unusable(path: Path, why: str) -> UserError:
    return UserError(f"{path.name} cannot be used.", why, AGAIN)
