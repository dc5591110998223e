"""FSDP: weights, gradients and optimizer of the trained net are sharded among the processes.

Each process holds a shard of every weight in fp32, and the whole weight in the run's precision only while it computes
(Zhao et al. 2023, arXiv 2304.11277; ZeRO stage 3, Rajbhandari et al. 2020, arXiv 1910.02054). torch's ``fully_shard``
does that, prepared by accelerate from its own settings. The frozen base stays whole on each card. What main saves,
draws and checks is gathered for it: a checkpoint looks like any other, and a single process can resume from it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from engine.distributed.ddp import DDP
from engine.distributed.parallel import TrainingRun
from engine.nets.master_weights import compute_copy

T = TypeVar("T")


class FSDP(DDP):
    """The net is sharded; ``trainable.master`` is a whole copy on the CPU, gathered when it is needed."""

    sharded = True

    def __init__(self, run: TrainingRun, record_fallback: Callable[[], str]) -> None:
        super().__init__(run, record_fallback)
        self._gathered: tuple[int, bool] | None = None  # at which step, and whether with the optimizer
        self._full_optimizer = run.optimizer  # with the state that a checkpoint has put into it

    def prepare(self) -> None:
        run = self._run
        net = copy.deepcopy(run.trainable.master).to(run.device)
        with self._group.collective():
            self.net, self.optimizer = run.accelerator.prepare(net, run.new_optimizer(net))
            self._shard_state()

    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters()) if self.net is not None else super().parameters()

    @property
    def sharded_optimizer(self) -> Any:
        """The optimizer of this process's shards."""
        return self.optimizer.optimizer

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Wraps forward and backward of a micro-batch: weights and gradients are exchanged in each."""
        self._group.all_ok()
        with self._group.collective():
            yield

    def average_gradients_and_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """The mean loss; the backward pass has averaged the gradients."""
        mean = self._mean(loss)
        self._computing = False
        return mean

    def out_of_memory(self, message: str, all_know: bool) -> None:
        if self._computing:
            self._end(message)

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Call ``work()`` on main; the others take part in the gathers that it asks for."""
        if not self._group.main:
            while (with_optimizer := self._group.broadcast(lambda: None)) is not None:
                self._gather(with_optimizer=with_optimizer)
            return None
        done = work()
        self._group.broadcast(lambda: None)
        return done

    def gather_full_weights(self, with_optimizer: bool = False) -> None:
        step, had_optimizer = self._gathered or (-1, False)
        if step == self._run.step and (had_optimizer or not with_optimizer):
            return
        self._group.broadcast(lambda: with_optimizer)
        self._gather(with_optimizer)
        self._gathered = (self._run.step, with_optimizer)

    @contextmanager
    def full_net(self) -> Iterator[Any]:
        self.gather_full_weights()
        run = self._run
        with run.trainable.weights.computing_with(compute_copy(run.trainable.master, run.dtype, run.device)) as net:
            yield net

    @property
    def full_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer whose state a checkpoint holds; ``gather_full_weights`` brings it up to date."""
        return self._full_optimizer

    def _whole_norm(self, norm: Any) -> Any:
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """The full optimizer's weights and this process's shards of them, in the optimizer's order."""
        groups = zip(self._full_optimizer.param_groups, self.sharded_optimizer.param_groups, strict=True)
        for whole, shards in groups:
            yield from zip(whole["params"], shards["params"], strict=True)

    @torch.no_grad()
    def _gather(self, with_optimizer: bool) -> None:
        keep = self._group.main
        with self._group.collective():
            for whole, shard in zip(self._run.trainable.parameters(), self.parameters(), strict=True):
                value = full_tensor(shard)
                if keep:
                    whole.copy_(value)
            if not with_optimizer:
                return
            for whole, shard in self._pairs():
                state = {name: full_tensor(value) for name, value in self.sharded_optimizer.state[shard].items()}
                if keep:
                    self._full_optimizer.state[whole] = {name: value.cpu() for name, value in state.items()}

    def _shard_state(self) -> None:
        """Give the sharded optimizer the state that a checkpoint gave the full one, whose memory is freed."""
        for whole, shard in self._pairs():
            for name, value in self._full_optimizer.state.pop(whole, {}).items():
                if value.shape == shard.shape:
                    value = distribute_tensor(value.to(shard.device), shard.device_mesh, shard.placements)
                self.sharded_optimizer.state[shard][name] = value


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All shards of a tensor together, on every process. A tensor that is not sharded is returned as it is."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor
