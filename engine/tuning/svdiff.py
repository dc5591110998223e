"""SVDiff (Han et al. 2023, arXiv 2303.11305): shifts of the singular values of the denoiser's weights are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.nets.singular_values import ENDING, Spectrum, train_singular_values
from engine.tuning.controlnet import training_bytes
from engine.tuning.trainable import Placement, Trainable
from engine.tuning.whole_base import WHY_LIVE

SHIFTS, AVERAGED_SHIFTS = "spectrum/shifts.safetensors", "spectrum/shifts_ema.safetensors"
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


class SingularValues(Trainable):
    """The shifts are a net of their own, ``master``; the denoiser that computes has copies of them in its layers."""

    master: Shifts

    def __init__(self, denoiser: Any, place: Placement, spectra: Mapping[str, Spectrum]) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            spectra: of its layers, by name.
        """
        layers = train_singular_values(denoiser, spectra)
        self._layers = list(layers.values())
        master, self.weights = place.masters_of(Shifts(layers))
        assert isinstance(master, Shifts)
        self.master = self.averaged = master
        self.weights.compute = denoiser
        self._dtype = str(place.dtype).removeprefix("torch.")

    @contextmanager
    def untrained(self) -> Iterator[None]:
        try:
            for layer in self._layers:
                layer.off = True
            yield
        finally:
            for layer in self._layers:
                layer.off = False

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_SHIFTS if average else SHIFTS)
        target.parent.mkdir(exist_ok=True)
        save_file(self.master.file_tensors(), target)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(from_file(load_file(folder / SHIFTS)))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return from_file(load_file(folder / AVERAGED_SHIFTS))

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def description(self, precision: str) -> dict[str, Any]:
        return {"spectrum": {"dtype": self._dtype}}

    def why_only_live(self) -> str:
        return WHY_LIVE
