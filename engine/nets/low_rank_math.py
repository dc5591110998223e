"""Arithmetic of low-rank weights: a layer's weight as the base's weight plus ``up @ down`` (Hu et al. 2021).

Shapes: for linear layers up (out, r) and down (r, in); for convolutions up (out, r, 1, 1) and down (r, in, k, k).
Tensors are keyed by diffusers names; factors end in ``.up`` and ``.down`` where a whole weight ends in ``.weight``.
Source: "LoRA", arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.errors import UserError
from engine.machine.device import random_state_kept

EXACT_BELOW = 256  # a full SVD of smaller matrices takes no time
OVERSAMPLING, ITERATIONS = 16, 4  # of the randomized SVD (Halko et al. 2011, arXiv 0909.4061)

Tensors = dict[str, torch.Tensor]


def is_smaller(name: str, weight: torch.Tensor, base: Mapping[str, torch.Tensor], rank: int) -> bool:
    """Whether this weight exists in the base in the same shape, and two factors of ``rank`` are smaller than it."""
    if not name.endswith(".weight") or weight.ndim < 2 or name not in base or base[name].shape != weight.shape:
        return False
    rows, columns = weight.shape[0], weight[0].numel()
    return rank * (rows + columns) < rows * columns


def factorize(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors up (m, r) and down (r, n), fp32, whose product is the nearest of that rank to the matrix (m, n).

    This is the truncated SVD (Eckart and Young 1936); each factor carries the square root of the singular values.
    The global random state stays as it was.
    """
    if min(matrix.shape) <= max(EXACT_BELOW, 2 * rank):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        v = vh.mT
    else:
        with random_state_kept(matrix.device):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=ITERATIONS)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, (v[:, :rank] * root).mT


def restore(factored: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], file: str) -> Tensors:
    """The whole weights of a net, fp32, from its factors and the base.

    Args:
        factored: factors, and whole weights where there are no factors.
        base: the base's weights that the net copies. What ``factored`` lacks is taken from here.
        file: name of the file, for the error.

    Raises:
        UserError: it was made for a base of another shape.
    """
    whole: Tensors = {}
    for key, tensor in factored.items():
        if key.endswith(".down"):
            continue
        if not key.endswith(".up"):
            whole[key] = tensor.float()
            continue
        stem = key.removesuffix(".up")
        weight, down = base.get(f"{stem}.weight"), factored.get(f"{stem}.down")
        if weight is None or down is None or tensor.shape[0] != weight.shape[0]:
            raise wrong_base(file, stem)
        if down.flatten(1).shape != (tensor.shape[1], weight[0].numel()):
            raise wrong_base(file, stem)
        product = tensor.float().flatten(1) @ down.float().flatten(1)
        whole[f"{stem}.weight"] = weight.float() + product.reshape(weight.shape)
    return {key: tensor.float() for key, tensor in base.items()} | whole


def wrong_base(file: str, difference: str) -> UserError:
    """The error for a Control-LoRA whose names or shapes do not match the base."""
    return UserError(
        f"{file} does not fit this base.",
        f"It is a Control-LoRA, which works only on the base it was made for (first difference: {difference}).",
        "Choose that base.",
    )
