"""Layers of a frozen net of whose weights only the singular values are trained (SVDiff, Han et al. 2023).

A weight W = U diag(s) V' becomes U diag(relu(s + d)) V', with trained shifts d that begin at zero (arXiv 2303.11305,
equation 2). For a matrix with no more rows than columns that is W + U diag(c) U' W with c = relu(s + d) / s - 1: the
layer's own output gets a correction, and neither V nor a new weight is needed. Other matrices have the same on the
side of their inputs, with V. So W itself may be quantized, and at d = 0 nothing changes, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.machine.device import in_fp64
from engine.nets.frozen_layers import frozen_forward, frozen_mixing

NEGLIGIBLE = 1e-3
"""Share of a weight's largest singular value; smaller ones are rounding, and stay as they are."""
ENDING = ".shift"
"""End of the names of shifts in files, behind the layer's name."""


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a weight, as a matrix (out, in * k * k), and the singular vectors of its shorter side."""

    vectors: torch.Tensor
    """(r, r), orthonormal columns: left ones if ``by_output``, else right ones."""
    values: torch.Tensor
    """(r,), fp32."""
    by_output: bool
    """The matrix has no more rows than columns."""

    def changes(self, shift: torch.Tensor) -> torch.Tensor:
        """relu(s + d) / s - 1 for shifts d (r,), fp32; exactly 0 where d is 0, and where s is negligible."""
        usable = self.values > NEGLIGIBLE * self.values.max()
        inverse = torch.where(usable, 1 / self.values, 0.0)
        return (self.values + shift.float()).relu() * inverse - self.values * inverse


def is_spectral(weight: Sequence[int]) -> bool:
    """Whether the singular values of a layer's weight are trained: not those of a convolution with more outputs than
    numbers that it reads, which is the first layer of a net.

    Args:
        weight: its shape.
    """
    return weight[0] <= math.prod(weight[1:]) or math.prod(weight[2:]) == 1


@torch.no_grad()
def spectrum_of(weight: torch.Tensor, device: torch.device) -> Spectrum:
    """Decompose a weight (out, in) or (out, in, k, k) on a device. The same device gives the same bits."""
    matrix = in_fp64(weight.detach().to(device).flatten(1))
    by_output = matrix.shape[0] <= matrix.shape[1]
    tall = matrix.T if by_output else matrix
    _, vectors = torch.linalg.eigh((tall.T @ tall).float())
    values = (tall @ in_fp64(vectors)).norm(dim=0).float()
    return Spectrum(vectors.to(device, weight.dtype), values.to(device), by_output)


@torch.no_grad()
def shifted(weight: torch.Tensor, spectrum: Spectrum, shift: torch.Tensor) -> torch.Tensor:
    """A weight with shifted singular values, fp32, in its shape."""
    vectors, matrix = spectrum.vectors.float(), weight.float().flatten(1)
    change = spectrum.changes(shift)
    if spectrum.by_output:
        moved = (vectors * change) @ (vectors.T @ matrix)
    else:
        moved = (matrix @ vectors * change) @ vectors.T
    return (matrix + moved).reshape(weight.shape)


class SpectralLinear(nn.Linear):
    """A linear layer over a frozen weight, with trained shifts (r,) of its singular values."""

    shift: nn.Parameter
    spectrum: Spectrum
    off = False
    """The shifts are left out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _forward(self, x, self.spectrum.vectors)


class SpectralConv2d(nn.Conv2d):
    """A convolution over a frozen weight, with trained shifts (r,) of its singular values."""

    shift: nn.Parameter
    spectrum: Spectrum
    off = False
    """The shifts are left out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _forward(self, x, self.spectrum.vectors)


KINDS: dict[type, type] = {nn.Linear: SpectralLinear, nn.Conv2d: SpectralConv2d}


def _forward(layer: Any, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    if layer.off:
        return frozen_forward(layer, x)
    change = layer.spectrum.changes(layer.shift).to(x.dtype)
    is_linear = isinstance(layer, nn.Linear)

    def moved(rows: torch.Tensor) -> torch.Tensor:
        if is_linear:
            return functional.linear(functional.linear(rows, vectors.T) * change, vectors)
        return frozen_mixing(frozen_mixing(rows, vectors.T) * change[:, None, None], vectors)

    if not layer.spectrum.by_output:
        return frozen_forward(layer, x + moved(x))
    output = frozen_forward(layer, x)
    if layer.bias is None:
        return output + moved(output)
    bias = layer.bias if is_linear else layer.bias[:, None, None]
    return output + moved(output - bias)


def spectra_of(
    net: nn.Module, device: torch.device, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Spectrum]:
    """The spectrum of each layer of a net, by the layer's name.

    Args:
        progress: called as progress(done, total) after each layer; may raise.
    """
    layers = {
        name: layer for name, layer in net.named_modules() if type(layer) in KINDS and is_spectral(layer.weight.shape)
    }
    found = {}
    for done, (name, layer) in enumerate(layers.items(), 1):
        found[name] = spectrum_of(layer.weight, device)
        progress(done, len(layers))
    return found


def train_singular_values(net: nn.Module, spectra: Mapping[str, Spectrum]) -> dict[str, Any]:
    """Freeze a net, in place, except for shifts of singular values, fp32, which change nothing at first.

    Returns:
        The layers by name.
    """
    net.requires_grad_(False)
    found: dict[str, Any] = {}
    for name, spectrum in spectra.items():
        layer: Any = net.get_submodule(name)
        linear = isinstance(layer, nn.Linear)
        layer.__class__ = SpectralLinear if linear else SpectralConv2d
        layer.spectrum = spectrum
        layer.shift = nn.Parameter(torch.zeros_like(spectrum.values))
        found[name] = layer
    return found


def with_shifts(
    tensors: Mapping[str, torch.Tensor],
    shifts: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, torch.Tensor]:
    """The weights of a net, fp32 on the CPU, with the shifts that a run has trained.

    Args:
        tensors: the net's own, by name.
        shifts: by the layer's name and ``ENDING``.
        dtype: in which the run computed: its spectra are those of the rounded weights.
        device: as ``spectrum_of`` takes it.

    Raises:
        KeyError: the net has no such layer.
    """
    found = {name: tensor.float() for name, tensor in tensors.items()}
    for done, (name, shift) in enumerate(shifts.items(), 1):
        weight = f"{name.removesuffix(ENDING)}.weight"
        spectrum = spectrum_of(found[weight].to(dtype), device)
        found[weight] = shifted(found[weight].to(device), spectrum, shift.to(device)).cpu()
        progress(done, len(shifts))
    return found
