"""Control-LoRA: a small file with only the difference to the base, as low-rank factors. It only works with that base.

Names are those of LDM, with ``.up`` and ``.down`` in place of ``.weight`` where the factors are smaller, and the marker
tensor ``lora_controlnet``. The control encoder, the zero convolutions, all biases and all norms are stored whole:
AUTOMATIC1111 takes nothing but weights from the base. Shapes: engine/nets/low_rank_math.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError
from engine.export import single_file
from engine.export.source import Source
from engine.families.control_files import LORA_MARK
from engine.families.ldm_keys import rename_from_ldm, to_ldm
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.device import torch_device
from engine.nets import low_rank_math

RANKS = (32, 64, 128, 256)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Factored:
    """A net as low-rank factors."""

    tensors: Tensors
    """Under diffusers names, with .up and .down."""
    error: float
    """Share of the difference to the base that was lost: norm of the rest over norm of the whole, 0 to 1."""


def factorize(
    tensors: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    rank: int,
    dtype: torch.dtype,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Factored:
    """Replace a net's weights by low-rank factors of their difference to the base.

    Args:
        tensors, base: fp32, under diffusers names.
        dtype: of the factors; the error includes its rounding.
    """
    device = torch_device()
    made: Tensors = {}
    lost = whole = 0.0
    for number, (name, weight) in enumerate(tensors.items()):
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(number, len(tensors), "Factorising")
        if not low_rank_math.is_smaller(name, weight, base, rank):
            made[name] = weight.to(dtype).contiguous()
            continue
        difference = (weight.float() - base[name].float()).to(device)
        up, down = low_rank_math.factorize(difference.flatten(1), rank)
        up, down = up.to(dtype), down.to(dtype)
        rest = difference.flatten(1) - up.float() @ down.float()
        lost += float(rest.square().sum())
        whole += float(difference.square().sum())
        stem = name.removesuffix(".weight")
        shape = weight.shape
        made[f"{stem}.up"] = up.reshape(shape[0], -1, *[1] * (weight.ndim - 2)).cpu().contiguous()
        made[f"{stem}.down"] = down.reshape(-1, *shape[1:]).cpu().contiguous()
    return Factored(made, math.sqrt(lost / whole) if whole else 0.0)


def against_base(
    source: Source,
    base: Mapping[str, torch.Tensor],
    rank: int,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Source:
    """The source with its net as low-rank factors, in its precision; the metadata say what was lost.

    Args:
        base: the base's weights that the net copies, fp32.

    Raises:
        UserError: the rank is not offered.
    """
    if not RANKS[0] <= rank <= RANKS[-1]:
        raise UserError(
            f"A Control-LoRA of rank {rank} is not offered.",
            f"Ranks range from {RANKS[0]} (small, coarse) to {RANKS[-1]} (large, fine).",
            "Choose a rank in this range.",
        )
    dtype = next(iter(source.tensors.values())).dtype
    made = factorize(source.original, base, rank, dtype, token, progress)
    facts = {"control_lora_rank": str(rank), "approximation_error": f"{made.error:.4f}"}
    return replace(source, tensors=made.tensors, metadata=source.metadata | facts, base=base, error=made.error)


def as_trained(
    source: Source,
    factors: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    rank: int,
    base_precision: str,
) -> Source:
    """The source as the low-rank factors that its run trained, in its precision. Nothing is approximated.

    Args:
        factors: fp32 under diffusers names, with .up and .down.
        base: the base's weights that the net copies, fp32.
        base_precision: the precision of the base during training.
    """
    dtype = next(iter(source.tensors.values())).dtype
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in factors.items()}
    facts = {"control_lora_rank": str(rank), "control_lora": "as trained"}
    return replace(
        source,
        tensors=tensors,
        metadata=source.metadata | facts,
        base=base,
        trained_as_lora=True,
        base_precision=base_precision,
    )


def write(path: Path, source: Source) -> None:
    """Write the file ``path``.

    Raises:
        UserError: the net has layers that have no LDM name.
    """
    single_file.save(path, to_ldm(source.tensors, source.config) | {LORA_MARK: torch.zeros(1)}, source)


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Config and tensors under diffusers names, still as factors."""
    config, tensors = single_file.read_as_named(path)
    tensors.pop(LORA_MARK)
    return config, rename_from_ldm(tensors, config)
