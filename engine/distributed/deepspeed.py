"""DeepSpeed: gradients and optimizer of the net that learns divided among the processes, by stage 3 its weights, too.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), prepared by accelerate. DeepSpeed's engine takes the optimizer's step
within the backward pass of a step's last micro-batch, clips there, and skips a step whose gradients are not finite.
Weights in fp32 and the optimizer's memory are in flat pieces; DeepSpeed's own functions bring them together for main.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.distributed.fsdp import Divided

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each weight."""


class Zero(Divided):
    """Of a trainer whose net DeepSpeed has. ``trainer.controlnet`` is whole, on the CPU, up to date when asked for."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self._parts: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # of each weight of the whole net that learns
        self._began = trainer.step  # nothing is to be gathered until a step was taken

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; the optimizer's step is taken in the ``last`` one's."""
        self._trainer.accelerator.sync_gradients = last
        with super().part(last):
            yield

    @torch.no_grad()
    def _divide_state(self, model: Any, optimizer: Any) -> None:
        """Give the optimizer what a checkpoint has given the whole one.

        DeepSpeed's functions for single weights reach the optimizer's memory after a first step only, and with two
        groups of weights not even then all of it. So each moment takes the weights' place for a while, here and below.
        """
        pairs = zip(self._trainer.controlnet.parameters(), model.module.parameters(), strict=True)
        self._parts = {one: part for one, part in pairs if one.requires_grad}
        state = self._whole.state
        if state:
            count = next(iter(state.values()))["step"]
            kept: list[dict[str, torch.Tensor]] = [{"step": count.clone()} for _ in flat_pieces(optimizer)]
            for name in MOMENTS:
                with in_place_of_weights(optimizer) as flats:
                    for one, part in self._parts.items():
                        _deepspeed().safe_set_full_fp32_param(part, state[one][name].to(self._trainer.device))
                    for own, flat in zip(kept, flats, strict=True):
                        own[name] = flat.detach().clone()
            for flat, own in zip(flats, kept, strict=True):
                optimizer.optimizer.state[flat] = own
        if not self._group.main:
            state.clear()

    @torch.no_grad()
    def _gather(self, with_optimizer: bool) -> None:
        trainer, held = self._trainer, self._trainer.optimizer.optimizer.state
        if trainer.step == self._began:
            return
        with self._group.listening():
            for one, value in self._whole_ones():
                one.copy_(value)
            if not with_optimizer:
                return
            for name in MOMENTS:
                with in_place_of_weights(trainer.optimizer) as flats:
                    for flat in flats:
                        flat.data.copy_(held[flat][name])
                    for one, value in self._whole_ones():
                        self._whole.state[one][name] = value.cpu()
            for state in self._whole.state.values():
                state["step"] = held[flats[0]]["step"].detach().cpu().clone()

    def _whole_ones(self) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
        """On main, each weight of the whole net that learns and its value; the others help."""
        for one, part in self._parts.items():
            value = _deepspeed().safe_get_full_fp32_param(part)
            if self._group.main:
                yield one, value


def _deepspeed() -> Any:
    import deepspeed.utils

    return deepspeed.utils


@contextmanager
def in_place_of_weights(optimizer: Any) -> Iterator[list[torch.Tensor]]:
    """This process's flat pieces of the weights, in which something else may lie within the block."""
    flats = flat_pieces(optimizer)
    weights = [flat.detach().clone() for flat in flats]
    try:
        yield flats
    finally:
        for flat, weight in zip(flats, weights, strict=True):
            flat.data.copy_(weight)


def flat_pieces(optimizer: Any) -> list[torch.Tensor]:
    """This process's pieces of all weights in fp32: what torch's optimizer within DeepSpeed's moves.

    Args:
        optimizer: DeepSpeed's, of stage 2 or 3.
    """
    flat: list[torch.Tensor] = getattr(optimizer, "fp32_partitioned_groups_flat", None) or (
        optimizer.single_partition_of_fp32_groups
    )
    return flat
