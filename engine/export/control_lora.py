"""Control-LoRA: what differs from the base, as products of thin matrices. Small, but of use only with the base.

Names are those of LDM, with ``.up`` (out, rank) and ``.down`` (rank, in) in place of ``.weight`` where that is smaller
(convolutions: (out, rank, 1, 1) and (rank, in, k, k)), and the marker tensor ``lora_controlnet``. The hint encoder, the
zero convolutions, all biases and all norms stand in full: AUTOMATIC1111 takes nothing but weights from the base. The
product of rank r nearest to a matrix is its truncated SVD (Eckart and Young 1936).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import UserError
from engine.export import single_file
from engine.jobs.control import CancelToken, OnProgress
from engine.nets.ldm_keys import rename_from_ldm, to_ldm

if TYPE_CHECKING:
    from engine.export.source import Source

MARK = "lora_controlnet"
TRUNK = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")
"""Parts of a ControlNet that begin as copies of the base's."""
RANKS = (32, 64, 128, 256)
EXACT_BELOW = 256  # a full SVD of smaller matrices takes no time
OVERSAMPLING, ITERATIONS = 16, 4  # of the randomised SVD (Halko et al. 2011)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Factored:
    """A net taken apart."""

    tensors: Tensors
    """Under diffusers names, with .up and .down."""
    error: float
    """What was lost of the difference to the base: the norm of the rest over the norm of the whole, 0 to 1."""


def factorise(
    tensors: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    rank: int,
    dtype: torch.dtype,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Factored:
    """Take a net apart against its base.

    Args:
        tensors, base: fp32, under diffusers names.
        dtype: of what is written; the error counts its rounding, too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made: Tensors = {}
    lost = whole = 0.0
    for number, (name, weight) in enumerate(tensors.items()):
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(number, len(tensors), "Factorising")
        if not worth_it(name, weight, base, rank):
            made[name] = weight.to(dtype).contiguous()
            continue
        difference = (weight.float() - base[name].float()).to(device)
        up, down = thin_product(difference.flatten(1), rank)
        up, down = up.to(dtype), down.to(dtype)
        rest = difference.flatten(1) - up.float() @ down.float()
        lost += float(rest.square().sum())
        whole += float(difference.square().sum())
        stem = name.removesuffix(".weight")
        shape = weight.shape
        made[f"{stem}.up"] = up.reshape(shape[0], -1, *[1] * (weight.ndim - 2)).cpu().contiguous()
        made[f"{stem}.down"] = down.reshape(-1, *shape[1:]).cpu().contiguous()
    return Factored(made, math.sqrt(lost / whole) if whole else 0.0)


def worth_it(name: str, weight: torch.Tensor, base: Mapping[str, torch.Tensor], rank: int) -> bool:
    """Whether two thin matrices in place of this tensor are possible and smaller."""
    if not name.endswith(".weight") or weight.ndim < 2 or name not in base or base[name].shape != weight.shape:
        return False
    rows, columns = weight.shape[0], weight[0].numel()
    return rank * (rows + columns) < rows * columns


def thin_product(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """up (m, r) and down (r, n), fp32, whose product is nearest to the matrix; both carry the root of its strengths."""
    if min(matrix.shape) <= max(EXACT_BELOW, 2 * rank):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        v = vh.mT
    else:
        with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=ITERATIONS)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, (v[:, :rank] * root).mT


def restore(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], base: Mapping[str, torch.Tensor], name: str
) -> Tensors:
    """The whole net, fp32 under diffusers names, from a Control-LoRA under LDM names and its base.

    Args:
        config: of a net for that base.

    Raises:
        UserError: it was made for a base of another shape.
    """
    try:
        found = rename_from_ldm(tensors, config)
    except UserError as error:
        raise _misfit(name, "its parts have other names") from error
    return rebuild(found, base, name)


def rebuild(found: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], name: str) -> Tensors:
    """As ``restore``, from tensors under diffusers names that are still taken apart."""
    whole: Tensors = {}
    for key, tensor in found.items():
        if key.endswith(".down"):
            continue
        if not key.endswith(".up"):
            whole[key] = tensor.float()
            continue
        stem = key.removesuffix(".up")
        weight, down = base.get(f"{stem}.weight"), found.get(f"{stem}.down")
        if weight is None or down is None or tensor.shape[0] != weight.shape[0]:
            raise _misfit(name, stem)
        if down.flatten(1).shape != (tensor.shape[1], weight[0].numel()):
            raise _misfit(name, stem)
        product = tensor.float().flatten(1) @ down.float().flatten(1)
        whole[f"{stem}.weight"] = weight.float() + product.reshape(weight.shape)
    # What such a file leaves out is as in the base.
    return {key: tensor.float() for key, tensor in base.items() if key.startswith(TRUNK)} | whole


def _misfit(name: str, where: str) -> UserError:
    return UserError(
        f"{name} does not fit this base.",
        f"It is a Control-LoRA, which works only on the base it was made for (first difference: {where}).",
        "Choose that base.",
    )


def against_base(
    source: Source, base: Tensors, rank: int, token: CancelToken | None = None, progress: OnProgress | None = None
) -> Source:
    """The source with its net taken apart, in its precision, and with what was lost in the metadata.

    Raises:
        UserError: a rank that is not offered.
    """
    if not RANKS[0] <= rank <= RANKS[-1]:
        raise UserError(
            f"A Control-LoRA of rank {rank} is not offered.",
            f"Ranks lie between {RANKS[0]} (small, coarse) and {RANKS[-1]} (large, fine).",
            "Choose one of these.",
        )
    dtype = next(iter(source.tensors.values())).dtype
    made = factorise(source.original, base, rank, dtype, token, progress)
    facts = {"control_lora_rank": str(rank), "approximation_error": f"{made.error:.4f}"}
    return replace(source, tensors=made.tensors, metadata=source.metadata | facts, base=base, error=made.error)


def as_trained(source: Source, learnt: Mapping[str, torch.Tensor], base: Tensors, rank: int, trained_in: str) -> Source:
    """The source as the thin matrices that its run trained, in its precision: nothing is taken apart or rounded off.

    Args:
        learnt: fp32 under diffusers names, with .up and .down.
        trained_in: precision in which the base stood while it learnt.
    """
    dtype = next(iter(source.tensors.values())).dtype
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in learnt.items()}
    facts = {"control_lora_rank": str(rank), "control_lora": "as trained"}
    return replace(
        source, tensors=tensors, metadata=source.metadata | facts, base=base, trained_thin=True, trained_in=trained_in
    )


def write(path: Path, source: Source) -> None:
    """Write the file ``path``.

    Raises:
        UserError: the net has parts that these names do not cover.
    """
    single_file.save(path, to_ldm(source.tensors, source.config) | {MARK: torch.zeros(1)}, source)


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Config and tensors under diffusers names, still taken apart."""
    config, tensors = single_file.read(path)
    tensors.pop(MARK)
    return config, rename_from_ldm(tensors, config)
