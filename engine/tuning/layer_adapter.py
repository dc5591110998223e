"""What LoRA and SVDiff have in common: layers of frozen nets carry what is trained, and can be switched off."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from engine.tuning.controlnet import training_bytes
from engine.tuning.trainable import Placement, Trainable

WHY_LIVE = "In this run the base's own layers carry what is trained, and only its present state is in memory."


class LayerAdapter(Trainable):
    """The weights are a net of their own, ``master``; the nets that compute have copies of them in their layers."""

    files: ClassVar[tuple[str, str]]
    """Paths in a checkpoint's folder: of the weights, and of their average."""
    metadata: dict[str, str] | None = None
    """For the header of the files."""

    def __init__(self, adapter: Any, layers: Sequence[Any], denoiser: Any, place: Placement) -> None:
        """
        Args:
            adapter: the weights of all layers, as a module with ``file_tensors()``.
            layers: each is as before training while its ``off`` is True.
            denoiser: in the placement's dtype, where it computes.
        """
        self._layers = layers
        self.master, self.weights = place.masters_of(adapter)
        self.averaged = self.master
        self.weights.compute = denoiser

    @staticmethod
    @abstractmethod
    def from_file(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a file under the names that they have in ``master``."""

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
        target = folder / self.files[average]
        target.parent.mkdir(exist_ok=True)
        adapter: Any = self.master
        save_file(adapter.file_tensors(), target, self.metadata)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(self.from_file(load_file(folder / self.files[0])))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return self.from_file(load_file(folder / self.files[1]))

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def why_only_live(self) -> str:
        return WHY_LIVE
