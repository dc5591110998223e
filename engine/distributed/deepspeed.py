"""DeepSpeed: gradients and optimizer of the trained net are sharded among the processes, by stage 3 its weights, too.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), prepared by accelerate. DeepSpeed's engine updates the weights within
the backward pass of a step's last micro-batch, clips there, and skips a step whose gradients are not finite. fp32
weights and the optimizer's state are in flat shards; DeepSpeed's own functions gather them for main.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.distributed.fsdp import FSDP
from engine.distributed.parallel import Finite, TrainingRun

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each weight."""


class DeepSpeed(FSDP):
    """DeepSpeed's engine owns the net and its optimizer; ``trainable.master`` is a whole copy on the CPU."""

    def __init__(self, run: TrainingRun, record_fallback: Callable[[], str]) -> None:
        super().__init__(run, record_fallback)
        self._shards: dict[nn.Parameter, nn.Parameter] = {}  # full trainable weight -> this process's
        self._updated = False  # a step was taken; before that there is nothing to gather

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Wraps forward and backward of a micro-batch; the optimizer's step is taken in the ``last`` one's."""
        self._run.accelerator.sync_gradients = last
        with super().micro_batch(last):
            yield

    def unscale_and_clip(self, loss: torch.Tensor, max_norm: float, loss_scale: float) -> Finite:
        """Report what was finite. DeepSpeed has clipped, and taken the step unless a gradient was not finite."""
        self._run.accelerator.clip_grad_norm_(self.parameters(), max_norm * loss_scale)
        taken = not self.optimizer.step_was_skipped
        self._updated = self._updated or taken
        return Finite(taken or bool(loss.isfinite()), taken)

    @property
    def sharded_optimizer(self) -> Any:
        """DeepSpeed's optimizer."""
        return self.optimizer.optimizer

    @torch.no_grad()
    def _shard_state(self) -> None:
        """Give the optimizer the state that a checkpoint gave the full one.

        DeepSpeed's functions for single weights reach the optimizer's state after a first step only, and with two
        parameter groups not even then all of it. So each moment temporarily takes the weights' place, here and below.
        """
        pairs = zip(self._run.trainable.parameters(), self.net.module.parameters(), strict=True)
        self._shards = {whole: shard for whole, shard in pairs if whole.requires_grad}
        optimizer, state = self.sharded_optimizer, self._full_optimizer.state
        if state:
            count = next(iter(state.values()))["step"]
            kept: list[dict[str, torch.Tensor]] = [{"step": count.clone()} for _ in flat_shards(optimizer)]
            for name in MOMENTS:
                with in_place_of_weights(optimizer) as flats:
                    for whole, shard in self._shards.items():
                        _deepspeed().safe_set_full_fp32_param(shard, state[whole][name].to(self._run.device))
                    for own, flat in zip(kept, flats, strict=True):
                        own[name] = flat.detach().clone()
            for flat, own in zip(flats, kept, strict=True):
                optimizer.optimizer.state[flat] = own
        if not self._group.main:
            state.clear()

    @torch.no_grad()
    def _gather(self, with_optimizer: bool) -> None:
        optimizer = self.sharded_optimizer
        held = optimizer.optimizer.state
        if not self._updated:
            return
        with self._group.collective():
            for whole, value in self._full_values():
                whole.copy_(value)
            if not with_optimizer:
                return
            for name in MOMENTS:
                with in_place_of_weights(optimizer) as flats:
                    for flat in flats:
                        flat.data.copy_(held[flat][name])
                    for whole, value in self._full_values():
                        self._full_optimizer.state[whole][name] = value.cpu()
            for state in self._full_optimizer.state.values():
                state["step"] = held[flats[0]]["step"].detach().cpu().clone()

    def _full_values(self) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        """On main, each trainable weight and its gathered value; the others take part."""
        for whole, shard in self._shards.items():
            value = _deepspeed().safe_get_full_fp32_param(shard)
            if self._group.main:
                yield whole, value


def _deepspeed() -> Any:
    import deepspeed.utils

    return deepspeed.utils


@contextmanager
def in_place_of_weights(optimizer: Any) -> Iterator[list[torch.Tensor]]:
    """Within the block, other values may be put into this process's flat shards of the weights."""
    flats = flat_shards(optimizer)
    weights = [flat.detach().clone() for flat in flats]
    try:
        yield flats
    finally:
        for flat, weight in zip(flats, weights, strict=True):
            flat.data.copy_(weight)


def flat_shards(optimizer: Any) -> list[torch.Tensor]:
    """This process's flat fp32 shards of all weights: what torch's optimizer within DeepSpeed's updates.

    Args:
        optimizer: DeepSpeed's, of stage 2 or 3.
    """
    flat: list[torch.Tensor] = getattr(optimizer, "fp32_partitioned_groups_flat", None) or (
        optimizer.single_partition_of_fp32_groups
    )
    return flat
