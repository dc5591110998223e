"""Weight deltas: what a LoRA or LyCORIS file adds to one tensor of a base.

LoRA: up @ down (Hu et al. 2021). LoHa: the product, number by number, of two such products (Hyeon-Woo et al. 2022,
arXiv 2108.06098). LoKr: a Kronecker product (Yeh et al. 2023, "LyCORIS", arXiv 2309.14859). Their convolutions may have
their kernel apart, in Tucker's form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch


class WeightDelta(ABC):
    """What a file adds to one tensor of a base, at weight 1."""

    @abstractmethod
    def delta(self, shape: torch.Size) -> torch.Tensor:
        """The difference, fp32, in the shape of the base's tensor."""

    @abstractmethod
    def fits(self, shape: torch.Size) -> bool:
        """Whether its parts fit each other, and the difference has as many rows and columns as the base's tensor."""


@dataclass(frozen=True)
class LowRank(WeightDelta):
    """The factors of a LoRA, or a full difference."""

    down: torch.Tensor
    """(r, in) or (r, in, k, k); a whole difference where ``up`` is None."""
    up: torch.Tensor | None
    """(out, r) or (out, r, 1, 1)."""
    mid: torch.Tensor | None
    """(r, r, k, k): the kernel of a convolution in Tucker's form; None: ``down`` has it."""
    scale: float
    """alpha / r."""

    def delta(self, shape: torch.Size) -> torch.Tensor:
        if self.up is None:
            return self.down.float().reshape(shape)
        up, down = self.up.float(), self.down.float()
        if self.mid is not None:
            product = torch.einsum("or,rskl,si->oikl", up.flatten(1), self.mid.float(), down.flatten(1))
        else:
            product = up.flatten(1) @ down.flatten(1)
        return (product * self.scale).reshape(shape)

    def fits(self, shape: torch.Size) -> bool:
        if self.up is None:
            return _sides_of(self.down.shape) == _sides_of(shape)
        if min(self.up.ndim, self.down.ndim) < 2:
            return False
        (rows, rank), (other_rank, columns) = self.up.flatten(1).shape, self.down.flatten(1).shape
        if self.mid is not None:
            if self.mid.ndim != 4 or self.mid.shape[:2] != (rank, other_rank):
                return False
            columns *= self.mid.shape[2:].numel()
            other_rank = rank
        return rank == other_rank and (rows, columns) == (shape[0], shape[1:].numel())


@dataclass(frozen=True)
class Lycoris(WeightDelta):
    """A LoHa or a LoKr."""

    tensors: Mapping[str, torch.Tensor]
    """By the end of their names: ``hada_w1_a`` ... or ``lokr_w1`` ..."""
    alpha: float | None
    """None: it is the rank."""

    def delta(self, shape: torch.Size) -> torch.Tensor:
        if "hada_w1_a" in self.tensors:
            first, second = (self._product(f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
            return (first * second * self._scale("hada_w1_b")).reshape(shape)
        first, second = self._kronecker(1), self._kronecker(2)
        product = torch.kron(first, second.flatten(1))
        return (product * self._scale("lokr_w1_b", "lokr_w2_b")).reshape(shape)

    def fits(self, shape: torch.Size) -> bool:
        sides = [] if "hada_w1_a" in self.tensors else [self._sides("lokr", 1), self._sides("lokr", 2)]
        if sides:
            rows, columns = (one * other for one, other in zip(*sides, strict=True))
            return (rows, columns) == (shape[0], shape[1:].numel())
        return all(self._sides("hada", n) == (shape[0], shape[1:].numel()) for n in (1, 2))

    def _kronecker(self, number: int) -> torch.Tensor:
        """One side of a LoKr: whole, or from its factors."""
        name = f"lokr_w{number}"
        whole = self.tensors.get(name)
        return self._product(name, f"lokr_t{number}") if whole is None else whole.float()

    def _product(self, name: str, kernel: str) -> torch.Tensor:
        a, b = (self.tensors[f"{name}_{side}"].float() for side in "ab")
        if kernel in self.tensors:  # a (r, out), b (r, in), kernel (r, r, k, k)
            return torch.einsum("ijkl,jr,ip->prkl", self.tensors[kernel].float(), b, a)
        return a.flatten(1) @ b.flatten(1)

    def _sides(self, method: str, number: int) -> tuple[int, int]:
        """Rows and columns of a product as a matrix; (0, 0) where a part of it is missing, or has another rank."""
        name, kernel = f"{method}_w{number}", self.tensors.get(f"{method}_t{number}")
        if (whole := self.tensors.get(name)) is not None:
            return (whole.shape[0], whole.shape[1:].numel()) if whole.ndim >= 2 else (0, 0)
        a, b = self.tensors.get(f"{name}_a"), self.tensors.get(f"{name}_b")
        if a is None or b is None or min(a.ndim, b.ndim) < 2:
            return 0, 0
        if kernel is not None:
            fits = kernel.ndim == 4 and kernel.shape[:2] == (a.shape[0], b.shape[0])
            return (a.shape[1], b.shape[1] * kernel.shape[2:].numel()) if fits else (0, 0)
        return (a.shape[0], b.shape[1:].numel()) if a.flatten(1).shape[1] == b.shape[0] else (0, 0)

    def _scale(self, *factors: str) -> float:
        """alpha / r by the first factor (r, ...) that there is; 1 for whole weights, or where alpha is the rank."""
        ranks = [self.tensors[name].shape[0] for name in factors if name in self.tensors]
        return 1.0 if self.alpha is None or not ranks else self.alpha / ranks[0]


def _sides_of(shape: torch.Size) -> list[int]:
    """A shape without its ones: a convolution of 1 x 1 is a matrix in some files."""
    return [side for side in shape if side != 1]
