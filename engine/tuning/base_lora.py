"""A LoRA: low-rank factors beside the layers of the base's denoiser are trained; the base is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.config import TuningConfig
from engine.families.family_facts import FamilyFacts
from engine.nets.base_lora import Factors, add_factors, from_file
from engine.runs.checkpoints import AVERAGED_LORA, LORA
from engine.tuning.controlnet import training_bytes
from engine.tuning.trainable import Placement, Trainable

WHY_LIVE = "In this run the base's own layers carry what is trained, and only its present state is in memory."


class BaseLora(Trainable):
    """The factors are a net of their own, ``master``; the denoiser that computes has copies of them in its layers."""

    master: Factors

    def __init__(
        self, denoiser: Any, place: Placement, tuning: TuningConfig, seed: int, family: FamilyFacts, resolution: int
    ) -> None:
        """
        Args:
            denoiser: in the placement's dtype, where it computes.
            family: of the base; it says which layers there are, and how files name them.
            resolution: of the training images in pixels, for the files' headers.
        """
        rank = tuning.rank
        compute = Factors(add_factors(denoiser, rank, family.layers.adapted[tuning.layers], seed))
        self.master, self.weights = place.masters_of(compute)
        self.averaged = self.master
        self._rank, self._prefix = rank, family.layers.adapted_prefix
        self._metadata = family.lora_metadata(rank, resolution)
        self.weights.compute = denoiser

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_LORA if average else LORA)
        target.parent.mkdir(exist_ok=True)
        save_file(self.master.file_tensors(self._prefix), target, self._metadata)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(from_file(load_file(folder / LORA), self._prefix))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return from_file(load_file(folder / AVERAGED_LORA), self._prefix)

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def description(self, precision: str) -> dict[str, Any]:
        return {"lora": {"rank": self._rank}}

    def why_only_live(self) -> str:
        return WHY_LIVE

    def _own_parameters(self) -> list[nn.Parameter]:
        return self.parameters()
