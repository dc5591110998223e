"""The trained weights of a run, as everything else sees them: parameters, compute copy, files.

A training run asks these questions and knows no more. The cases are ``controlnet.py`` (whole and low rank) and
``unlocked.py`` (the base's decoder, too); a new one is a class beside them, and an entry in each of the two lists by
which a run's settings choose it: ``facts.CASES`` and ``build.BUILDERS``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.errors import UserError
from engine.families.layers import Layers
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.master_weights import MasterWeightSync
from engine.tuning.facts import MasterWeights

if TYPE_CHECKING:
    from engine.tuning.learned_text import LearnedText


@dataclass(frozen=True)
class Placement:
    """The devices that hold a run's weights, and the precision that they compute in."""

    device: torch.device
    """Where to compute."""
    dtype: torch.dtype
    """What to compute in; master weights are fp32."""
    in_ram: bool = False
    """Master weights, gradients and optimizer stay in RAM (``optim.offload``)."""
    sharded: bool = False
    """FSDP or DeepSpeed makes the shards that compute; the whole master weights stay in RAM."""
    master_weights: MasterWeights = "whole"
    """How they are kept (``facts.master_weights_of``)."""

    def sync(self, master: nn.Module, compute: Any | None = None) -> MasterWeightSync:
        """The link between a net of fp32 master weights and the copy of it that computes; None: one is made."""
        if self.dtype != torch.float32 and not (self.in_ram or self.sharded):
            return CompactMasterWeights(master, self.dtype, self.master_weights, compute)
        return MasterWeightSync(
            master, torch.float32 if self.sharded else self.dtype, self.device if self.in_ram else None, compute
        )

    def masters_of(self, compute: nn.Module) -> tuple[nn.Module, MasterWeightSync]:
        """fp32 master weights of a small net whose parameters are parts of larger ones, and the link between them.

        Args:
            compute: fp32. Where the run computes in another precision, its parameters are changed to that, in place.
        """
        master = compute
        if self.dtype != torch.float32 or self.in_ram:
            master = copy.deepcopy(compute)
            if self.in_ram:
                master.cpu()
            for parameter in compute.parameters():
                parameter.data = parameter.data.to(self.dtype)
        return master, self.sync(master, compute)


class Trainable(ABC):
    """The trained weights of a run.

    The methods that are not abstract suit one that trains weights of the denoiser. ``ControlNetTrainable``
    (controlnet.py) has those of one with a ControlNet.
    """

    master: nn.Module
    """All fp32 weights that the optimizer updates."""
    averaged: nn.Module
    """The part of them that an EMA covers, and that an export contains."""
    weights: MasterWeightSync
    """The link between the master weights and the copy that computes."""

    @property
    def control_net(self) -> Any:
        """The net that turns a control image into residuals for the denoiser, in the form that computes; None: a step
        calls the denoiser alone."""
        return None

    @property
    def nets(self) -> list[Any]:
        """The nets that compute beside the denoiser."""
        return []

    @property
    def learned_text(self) -> LearnedText | None:
        """The text encoders, where words or text encoders are trained; None: captions are encoded before training."""
        return None

    def encode_text(self, text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The embeddings of a batch's captions: ``text`` itself, or that of its token numbers where text learns."""
        return text if self.learned_text is None else self.learned_text.encode(text)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Within the block the nets that compute are as they were before training.

        Raises:
            UserError: they are not kept.
        """
        raise UserError(
            "The untrained base is not in memory.",
            f"{type(self).__name__} trains its own weights, of which no copy is kept.",
            "Preserve by class images, and let the run draw them before training.",
        )
        yield

    def nets_of_step(self, wrapped: Any, denoiser: Any) -> tuple[Any, Any]:
        """The control net (or None) and the denoiser that a step calls.

        Args:
            wrapped: ``weights.compute`` as accelerate has wrapped it, so that several processes share its gradients.
            denoiser: the plain one.
        """
        return None, wrapped

    def use_gradient_checkpointing(self, denoiser: Any, scope: str, layers: Layers) -> None:
        """Keep only the inputs of layers for the backward pass.

        Args:
            scope: "none", "controlnet" (what is trained alone) or "both" (the whole denoiser, too).
            layers: of the base's family.
        """
        if scope != "none":
            denoiser.enable_gradient_checkpointing()

    def parameters(self) -> list[nn.Parameter]:
        """The fp32 parameters, frozen ones included."""
        return list(self.master.parameters())

    @abstractmethod
    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        """Write the files of a checkpoint, yielding each file or folder as soon as it is complete.

        Args:
            folder: the checkpoint's.
            average: the averaged weights are in place, and go to the files of the average.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Load the master weights from a checkpoint's folder.

        Raises:
            OSError, ValueError, KeyError: a file is missing, or of another trainable.
        """

    @abstractmethod
    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        """The averaged weights of a checkpoint under the names that they have in ``averaged``."""

    @abstractmethod
    def checkpoint_bytes(self, average: bool) -> int:
        """Upper estimate of a checkpoint's size: weights, the optimizer's state, and the average where there is one."""

    def description(self, precision: str) -> dict[str, Any]:
        """Entries that it adds to checkpoint.json."""
        return {}

    def why_only_live(self) -> str:
        """Why images cannot be drawn with a checkpoint while the run trains; empty if they can."""
        return ""

    @torch.no_grad()
    def move_to_ram(self) -> None:
        """Move the master weights to RAM, in place, so that whoever holds these parameters sees it."""
        self.weights.keep_whole(torch.device("cpu"))
        for parameter in self._own_parameters():
            parameter.data = parameter.data.cpu()

    def _own_parameters(self) -> list[nn.Parameter]:
        """The parameters that are not the base's."""
        return self.parameters()
