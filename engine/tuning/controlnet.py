"""A ControlNet that is trained whole, and one whose copied layers are trained as low-rank factors (Control-LoRA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from engine.families.layers import Layers
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.gradient_checkpointing import use_gradient_checkpointing
from engine.nets.lora import load_trained, lora_layers, save_factors, save_net
from engine.runs.checkpoints import AVERAGED_FACTORS, FACTORS, OVER_START
from engine.tuning.trainable import Placement, Trainable

FOLDER, AVERAGED_FOLDER = "controlnet", "controlnet_ema"
MARGIN_BYTES = 64 * 2**20


class ControlNetTrainable(Trainable):
    """A ControlNet is trained, alone or beside weights of the base: ``weights.compute`` is the one that computes."""

    @property
    def control_net(self) -> Any:
        return self.weights.compute

    @property
    def nets(self) -> list[Any]:
        return [self.control_net]

    def nets_of_step(self, wrapped: Any, denoiser: Any) -> tuple[Any, Any]:
        return wrapped, denoiser

    def use_gradient_checkpointing(self, denoiser: Any, scope: str, layers: Layers) -> None:
        use_gradient_checkpointing(self.control_net, denoiser, scope, layers)


class WholeControlNet(ControlNetTrainable):
    """Every weight of the ControlNet is trained."""

    def __init__(self, control_net: Any, place: Placement, silent: Sequence[str] = ()) -> None:
        """
        Args:
            control_net: a diffusers ControlNetModel, fp32.
            silent: output modules of the net that stay zero for good (``only_mid_control`` of the original code).
        """
        stays = place.in_ram or place.sharded
        self.master = self.averaged = (control_net if stays else control_net.to(place.device)).train()
        silence(control_net, silent)
        self.weights = place.sync(self.master)

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_FOLDER if average else FOLDER)
        save_net(self.averaged, target)
        yield target

    def load(self, folder: Path) -> None:
        load_trained(self.averaged, load_file(folder / FOLDER / WEIGHTS))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / AVERAGED_FOLDER / WEIGHTS)

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.averaged, average)


class ControlLora(WholeControlNet):
    """Copied layers are the base's own; low-rank factors beside them are trained, and the other layers whole."""

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        yield from super().save(folder, average)
        target = folder / (AVERAGED_FACTORS if average else FACTORS)
        save_factors(self.averaged, target)
        yield target

    def load(self, folder: Path) -> None:
        load_trained(self.averaged, load_file(folder / FACTORS))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / AVERAGED_FACTORS)

    def checkpoint_bytes(self, average: bool) -> int:
        factors = sum(p.numel() for p in self.averaged.parameters() if p.requires_grad) * 4
        return super().checkpoint_bytes(average) + (2 if average else 1) * factors

    def description(self, precision: str) -> dict[str, Any]:
        rank = next(layer.down.shape[0] for layer in lora_layers(self.averaged).values())
        return {"control_lora": {"rank": rank, "precision": precision}}

    def _own_parameters(self) -> list[nn.Parameter]:
        of_base = {id(layer.weight) for layer in lora_layers(self.averaged).values()}
        return [parameter for parameter in self.parameters() if id(parameter) not in of_base]


class LowRankOverStart(ControlLora):
    """The layers of the net that the run goes on from are frozen, and low-rank factors beside them are trained."""

    def description(self, precision: str) -> dict[str, Any]:
        """Its factors make no file of their own: they are of no use without that net."""
        found = super().description(precision)["control_lora"]
        return {"control_lora": {**found, "over": OVER_START}}


def training_bytes(net: nn.Module, average: bool) -> int:
    """Upper estimate of a net's share of a checkpoint: fp32 weights, two Adam moments, and the average."""
    weights = sum(p.numel() for p in net.parameters()) * 4
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad) * 4
    return weights * (2 if average else 1) + 2 * trained + MARGIN_BYTES


@torch.no_grad()
def silence(control_net: Any, modules: Sequence[str]) -> None:
    """Zero and freeze these output modules: the exported net is silent there in every program, too."""
    for name in modules:
        for parameter in control_net.get_submodule(name).parameters():
            parameter.zero_()
            parameter.requires_grad_(False)
