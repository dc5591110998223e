"""A trainable made up for tests: all weights of the base are trained, and nothing but the text conditions it.

It is no ControlNet and needs no condition maps, so it shows which parts of the engine would assume either.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.families.sizes import Learned
from engine.tuning.build import BUILDERS, Builder, Inputs
from engine.tuning.controlnet import training_bytes
from engine.tuning.facts import CASES, TrainableFacts
from engine.tuning.trainable import Placement, Trainable

FILE, AVERAGED_FILE = "denoiser.safetensors", "denoiser_ema.safetensors"
NOT_DRAWN = "Images are drawn with a ControlNet and a control image."


class WholeDenoiser(Trainable):
    """Every weight of the denoiser is trained; in half precision the denoiser itself is the copy that computes."""

    def __init__(self, denoiser: Any, place: Placement) -> None:
        master = denoiser.requires_grad_(True).train()
        if place.dtype != torch.float32 or place.in_ram:
            master = copy.deepcopy(denoiser)
            if place.in_ram:
                master.cpu()
            nn.Module.to(denoiser, place.dtype)
        self.master = self.averaged = master
        self.weights = place.sync(master, denoiser)

    def save(self, folder: Path, average: bool = False) -> Iterator[Path]:
        target = folder / (AVERAGED_FILE if average else FILE)
        save_file({name: weight.contiguous() for name, weight in self.master.state_dict().items()}, target)
        yield target

    def load(self, folder: Path) -> None:
        self.master.load_state_dict(load_file(folder / FILE))

    def averaged_tensors(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / AVERAGED_FILE)

    def checkpoint_bytes(self, average: bool) -> int:
        return training_bytes(self.master, average)

    def why_only_live(self) -> str:
        return "In this run the base is trained, and only its present state is in memory."


def build(inputs: Inputs, net: Any) -> WholeDenoiser:
    assert net is None, "nothing is made beside the base"
    return WholeDenoiser(inputs.denoiser, inputs.place)


FACTS = TrainableFacts(
    "whole_denoiser",
    Learned(control=False, base="everything"),
    averages_base=True,
    needs_condition_maps=False,
    not_sharded=("the whole base",),
    trains="the whole base",
    not_drawn=NOT_DRAWN,
)


@contextmanager
def chosen() -> Iterator[None]:
    """Within the block every run's settings ask for it: one entry in each of the two lists."""
    CASES.insert(0, lambda config: FACTS)
    BUILDERS[FACTS.kind] = Builder(build)
    try:
        yield
    finally:
        CASES.pop(0)
        del BUILDERS[FACTS.kind]
