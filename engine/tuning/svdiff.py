"""SVDiff (Han et al. 2023, arXiv 2303.11305): shifts of the singular values of the denoiser's weights are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.nets.singular_values import ENDING, Spectrum, train_singular_values
from engine.tuning.layer_adapter import LayerAdapter
from engine.tuning.trainable import Placement

SHIFTS, AVERAGED_SHIFTS = "svdiff/shifts.safetensors", "svdiff/shifts_ema.safetensors"
"""The files of a checkpoint, fp32: the shifts (r,) of each layer, under its diffusers name and ``.shift``."""
DOT = "__"
"""Stands for the dots of layers' names in names of parameters."""


class Shifts(nn.Module):
    """The shifts of all layers as one net; the same parameters as the layers'."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.register_parameter(name.replace(".", DOT), layer.shift)

    def file_tensors(self) -> dict[str, torch.Tensor]:
        """The shifts under their names in a file, fp32."""
        return {
            name.replace(DOT, ".") + ENDING: shift.detach().float().cpu() for name, shift in self.named_parameters()
        }


def from_file(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of ``Shifts.file_tensors``: names as in a ``Shifts``."""
    return {name.removesuffix(ENDING).replace(".", DOT): shift for name, shift in tensors.items()}


class SingularValues(LayerAdapter):
    """Adds shifts of the singular values to layers of the denoiser."""

    files = SHIFTS, AVERAGED_SHIFTS
    from_file = staticmethod(from_file)

    def __init__(self, denoiser: Any, place: Placement, spectra: Mapping[str, Spectrum]) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            spectra: of its layers, by name.
        """
        layers = train_singular_values(denoiser, spectra)
        super().__init__(Shifts(layers), list(layers.values()), denoiser, place)
        self._dtype = str(place.dtype).removeprefix("torch.")

    def description(self, precision: str) -> dict[str, Any]:
        return {"svdiff": {"dtype": self._dtype}}
