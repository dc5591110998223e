"""FSDP: the net that learns, its gradients and its optimizer divided among the processes, by accelerate's own settings.

Each process holds a part of every weight in fp32, and the whole in the run's precision only while it computes (Zhao et
al. 2023, arXiv 2304.11277; ZeRO's third stage, Rajbhandari et al. 2020, arXiv 1910.02054). torch's ``fully_shard`` does
that, prepared by accelerate. The frozen base stays whole on each card. What main saves, draws and checks with is
gathered for it: a checkpoint looks like any other, and one card can go on with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from engine.distributed.ddp import Sharing
from engine.machine.errors import is_out_of_memory
from engine.nets.master_weights import copy_in
from engine.training.optim import build_optimizer

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

T = TypeVar("T")


class Divided(Sharing):
    """Of a trainer whose net is divided. ``trainer.controlnet`` is whole, on the CPU, and up to date when asked for."""

    divided = True

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._home: tuple[int, bool] | None = None
        self._whole = trainer.optimizer  # with what a checkpoint has put into it

    def prepare(self) -> tuple[Any, Any]:
        """The net and its optimizer, divided; both are what the trainer steps with from now on."""
        trainer = self._trainer
        net = copy.deepcopy(trainer.controlnet).to(trainer.device)
        with self._group.listening():
            model, prepared = trainer.accelerator.prepare(net, build_optimizer(net, trainer.config.optim))
            self._divide_state(model, prepared.optimizer)
        trainer.learning, trainer.optimizer = model, prepared.optimizer
        return model, prepared

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: weights and gradients travel in each."""
        self._group.agree()
        with self._group.listening():
            yield

    def combine(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The mean loss; gradients have been averaged by the backward pass."""
        try:
            return self._mean(work())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            words = str(error)
        self._end(words)

    def attend(self, work: Callable[[], T]) -> T | None:
        """``work()`` on main; the others help it to the whole net as often as it asks."""
        if not self._group.main:
            while (wish := self._group.tell(lambda: None)) is not None:
                self._gather(with_optimizer=wish)
            return None
        done = work()
        self._group.tell(lambda: None)
        return done

    def bring_home(self, with_optimizer: bool = False) -> None:
        """On main, within ``attend``: make ``trainer.controlnet`` (and ``whole_optimizer``) what they are now."""
        step, had_optimizer = self._home or (-1, False)
        if step == self._trainer.step and (had_optimizer or not with_optimizer):
            return
        self._group.tell(lambda: with_optimizer)
        self._gather(with_optimizer)
        self._home = (self._trainer.step, with_optimizer)

    @contextmanager
    def computing_net(self) -> Iterator[Any]:
        """On main, within ``attend``: the whole net where it computes and in the run's precision, for a while."""
        self.bring_home()
        trainer, nets = self._trainer, self._trainer.nets
        nets.controlnet = copy_in(trainer.controlnet, trainer.dtype, trainer.device)
        try:
            yield nets.controlnet
        finally:
            nets.controlnet = trainer.controlnet

    @property
    def whole_optimizer(self) -> torch.optim.Optimizer:
        """What a checkpoint is written of; brought up to date by ``bring_home``."""
        return self._whole

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """Weights of the whole net's optimizer and their parts, in the optimizer's order."""
        groups = zip(self._whole.param_groups, self._trainer.optimizer.param_groups, strict=True)
        for whole, parts in groups:
            yield from zip(whole["params"], parts["params"], strict=True)

    @torch.no_grad()
    def _gather(self, with_optimizer: bool) -> None:
        keep = self._group.main
        with self._group.listening():
            for whole, part in zip(
                self._trainer.controlnet.parameters(), self._trainer.learning.parameters(), strict=True
            ):
                value = whole_tensor(part)
                if keep:
                    whole.copy_(value)
            if not with_optimizer:
                return
            for whole, part in self._pairs():
                state = {name: whole_tensor(value) for name, value in self._trainer.optimizer.state[part].items()}
                if keep:
                    self._whole.state[whole] = {name: value.cpu() for name, value in state.items()}

    def _divide_state(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Give the divided optimizer what the whole one was given by a checkpoint; its own memory is freed."""
        for group, parts in zip(self._whole.param_groups, optimizer.param_groups, strict=True):
            for whole, part in zip(group["params"], parts["params"], strict=True):
                for name, value in self._whole.state.pop(whole, {}).items():
                    if value.shape == part.shape:
                        value = distribute_tensor(value.to(part.device), part.device_mesh, part.placements)
                    optimizer.state[part][name] = value


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All parts of a tensor together, on every process; one that is not divided as it is."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor
