"""A control net that is trained together with the base's decoder (``sd_locked=False`` of the original code)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.families.layers import Layers
from engine.runs.checkpoints import DECODER, require_intact
from engine.tuning.controlnet import ControlNetTrainable, WholeControlNet, training_bytes
from engine.tuning.trainable import Placement


class UnlockedDecoder(ControlNetTrainable):
    """The half of the denoiser that the control flows into is trained beside the control net."""

    def __init__(
        self, denoiser: Any, place: Placement, layers: Layers, build_control: Callable[[], WholeControlNet]
    ) -> None:
        """
        Args:
            denoiser: in fp32, so that the master weights start from unrounded ones; afterwards it is in the run's
                dtype.
            layers: of the base's family.
            build_control: makes the control net's own trainable, once the denoiser is in that dtype.
        """
        self.decoder = decoder_of(denoiser, layers).requires_grad_(True)
        if place.dtype != torch.float32 or place.in_ram:
            self.decoder = copy.deepcopy(self.decoder)
            if place.in_ram:
                self.decoder.cpu()
        nn.Module.to(denoiser, place.dtype)  # diffusers' own method warns of nets that keep some parts in fp32
        self.control = build_control()
        self.weights, self.averaged = self.control.weights, self.control.averaged
        self.weights.link(decoder_of(denoiser, layers), self.decoder)
        self.master = nn.ModuleList([self.control.master, self.decoder])

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        yield from self.control.save(folder, average)
        if not average:
            target = folder / DECODER
            target.parent.mkdir()
            save_file({name: weight.contiguous() for name, weight in self.decoder.state_dict().items()}, target)
            yield target

    def load(self, folder: Path) -> None:
        self.control.load(folder)
        self.decoder.load_state_dict(load_file(folder / DECODER))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return self.control.averaged_tensors(folder)

    def checkpoint_bytes(self, average: bool) -> int:
        return self.control.checkpoint_bytes(average) + training_bytes(self.decoder, False)

    def description(self, precision: str) -> dict[str, Any]:
        return self.control.description(precision)

    def why_only_live(self) -> str:
        return "In this run the base is trained, too, and only its current state is in memory."

    def _own_parameters(self) -> list[nn.Parameter]:
        return [*self.control._own_parameters(), *self.decoder.parameters()]


def decoder_of(denoiser: Any, layers: Layers) -> nn.ModuleDict:
    """The half of the denoiser that the control flows into: its own modules, not copies."""
    return nn.ModuleDict({name: getattr(denoiser, name) for name in layers.after_control})


def trained_base_file(checkpoint: Path) -> Path | None:
    """The file of base weights that a checkpoint's run has trained; None where the base was frozen.

    Args:
        checkpoint: the checkpoint's folder.
    """
    path = checkpoint / DECODER
    return path if path.is_file() else None


def load_trained_base(checkpoint: Path, denoiser: Any, layers: Layers) -> bool:
    """Load the base weights that a checkpoint's run has trained into a denoiser; False where there are none.

    Raises:
        DamagedCheckpoint: the file is not what was written.
    """
    path = trained_base_file(checkpoint)
    if path is None:
        return False
    require_intact(checkpoint, DECODER)
    decoder_of(denoiser, layers).load_state_dict(load_file(path))
    return True
