"""The whole base: every weight of its denoiser is trained; text encoders and VAE stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.tuning.controlnet import training_bytes
from engine.tuning.trainable import Placement, Trainable

DENOISER, AVERAGED_DENOISER = "denoiser/denoiser.safetensors", "denoiser/denoiser_ema.safetensors"
"""The denoiser's files in a checkpoint, fp32, under diffusers names."""
WHY_LIVE = "In this run the base itself is trained, and only its present state is in memory."


class WholeBase(Trainable):
    """In half precision the base's denoiser is the copy that computes; in fp32 it is the master net as well."""

    def __init__(self, denoiser: Any, place: Placement) -> None:
        """
        Args:
            denoiser: fp32, so that the master weights start from unrounded ones; afterwards it is in the run's dtype.
        """
        master = denoiser.requires_grad_(True).train()
        if place.dtype != torch.float32 or place.in_ram:
            master = copy.deepcopy(denoiser)
            if place.in_ram:
                master.cpu()
            nn.Module.to(denoiser, place.dtype)  # diffusers' own method warns of nets that keep some parts in fp32
        self.master = self.averaged = master
        self.weights = place.sync(master, denoiser)

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_DENOISER if average else DENOISER)
        target.parent.mkdir(exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in self.master.state_dict().items()}, target)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(load_file(folder / DENOISER))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / AVERAGED_DENOISER)

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def why_only_live(self) -> str:
        return WHY_LIVE
