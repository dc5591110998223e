"""How a training step runs on one process, and the interface behind which several processes share it.

``training/step.py`` calls these methods and has no branch for any strategy. This class is the strategy of a single
process; ``ddp.py``, ``fsdp.py`` and ``deepspeed.py`` override what differs with several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from engine.config import RunConfig
from engine.distributed.group import ProcessGroup
from engine.machine.device import is_card
from engine.tuning.trainable import Trainable

T = TypeVar("T")


class TrainingRun(Protocol):
    """The part of a training run that a strategy uses (``engine.training.state.TrainState``)."""

    group: ProcessGroup
    accelerator: Accelerator
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype
    config: RunConfig

    @property
    def step(self) -> int: ...

    def weights_update(self) -> AbstractContextManager[set[nn.Parameter]]:
        """Wraps the updates of a step; holds the weights that failed tries of this step have updated."""

    def new_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """An optimizer with the run's settings for these weights."""


class Finite(NamedTuple):
    """Whether loss and gradients of a step are finite in every process."""

    loss: bool
    gradients: bool


class Parallel:
    """One process: nothing is exchanged."""

    sharded = False
    """Whether each process holds only a part of the master weights."""
    not_compiled = ""
    """Why nets are not compiled, as a clause; empty: they can be."""
    updated_before_skipping = ""
    """What a step that was skipped for its gradients has changed, as a sentence; empty: nothing."""

    def __init__(self, run: TrainingRun, record_fallback: Callable[[], str]) -> None:
        """
        Args:
            record_fallback: notes in run.json how a resume should need less memory, and returns it in words.
        """
        self._run, self._group, self._record_fallback = run, run.group, record_fallback
        self.net: Any = None
        """The net with the trained weights as accelerate wrapped it: what a step calls. Set by ``prepare``."""
        self.optimizer: Any = None
        """The optimizer as accelerate wrapped it."""

    def prepare(self) -> None:
        """Wrap the net and the optimizer, once, before the first step."""
        if self._run.config.optim.half_gradients:
            self._run.trainable.weights.keep_half_gradients()
        self.net = self._run.accelerator.prepare_model(self._run.trainable.weights.compute)
        self.wrap_optimizer()

    def wrap_optimizer(self) -> None:
        """Let accelerate wrap the run's optimizer. Called again when a fallback has replaced the optimizer."""
        accelerator = self._run.accelerator
        if self.optimizer is not None:
            accelerator._optimizers.remove(self.optimizer)
        self.optimizer = accelerator.prepare_optimizer(self._run.optimizer)

    def parameters(self) -> list[nn.Parameter]:
        """The fp32 parameters that the optimizer of this process updates, frozen ones included."""
        return self._run.trainable.parameters()

    # The step, in the order in which it calls these.

    def begin_step(self) -> None:
        """A step begins, or is tried again."""

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Wraps forward and backward of a micro-batch.

        Args:
            last: it is the step's last one, after which gradients are complete.
        """
        yield
        if not last:
            self._run.trainable.weights.widen_gradients()

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradients of a loss in the fp32 parameters. Some strategies clip and update here, too."""
        self._run.accelerator.backward(loss)

    def average_gradients_and_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Average gradients over all processes, if ``backward`` has not yet; return the mean loss."""
        self._run.trainable.weights.finish_gradients()
        return loss

    @property
    def card_skips(self) -> bool:
        """Whether the optimizer's kernel itself skips a step that is not finite, so that the processor need not wait
        for the card.

        torch's fused Adam does, where it has all weights whole. fp16 tries the same batch again at a smaller loss
        scale, which has to be known before the next batch; and several processes have to agree.
        """
        run = self._run
        return (
            is_card(run.device)
            and self._group.world_size == 1
            and run.dtype != torch.float16
            and bool(getattr(run.optimizer, "_step_supports_amp_scaling", False))
            and run.trainable.weights.updated_at_once
            and self.parameters()[0].device == run.device
        )

    def unscale_and_clip(self, loss: torch.Tensor, max_norm: float, loss_scale: float) -> Finite:
        """Divide the gradients by the loss scale and clip their total norm, where they and the loss are finite.

        Where ``card_skips``, nothing waits for the card here: everything counts as finite, the optimizer's kernel clips
        or skips, and ``loss``, which is read later, becomes -inf in place if it is finite and a gradient is not.

        Otherwise this is the only place in a step that waits, and mostly there is nothing to multiply. All processes
        find the same, since their weights would differ if only one of them skipped a step.
        """
        weights, parameters = self._run.trainable.weights, self.parameters()
        scaled_norm = self._whole_norm(weights.gradient_norm(parameters)).to(loss.device, torch.float32)
        if self.card_skips:
            self._clip_or_skip_on_card(loss, scaled_norm / loss_scale, max_norm, loss_scale)
            return Finite(True, True)
        loss_found, norm = self._read(torch.stack([loss.detach().float(), scaled_norm / loss_scale]))
        finite = Finite(math.isfinite(loss_found), math.isfinite(norm))
        factor = min(1.0, max_norm / (norm + 1e-6)) / loss_scale if finite.gradients else 1.0
        if finite.loss:
            weights.multiply_gradients(parameters, factor)
        return finite

    def _clip_or_skip_on_card(self, loss: torch.Tensor, norm: torch.Tensor, max_norm: float, loss_scale: float) -> None:
        """Tell the optimizer's kernel what to divide gradients by, and whether to skip, as torch's GradScaler does."""
        optimizer: Any = self._run.optimizer
        finite = norm.isfinite()
        optimizer.found_inf = (~(finite & loss.isfinite())).float()
        optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1) * loss_scale
        loss.masked_fill_(~finite & loss.isfinite(), -math.inf)

    def optimizer_step(self) -> None:
        """Update the master weights."""
        try:
            self._run.trainable.weights.update(self.optimizer.step, self._run.step)
        finally:
            optimizer: Any = self._run.optimizer
            optimizer.found_inf = optimizer.grad_scale = None

    def zero_grad(self) -> None:
        """Drop the gradients of the master weights."""
        self.optimizer.zero_grad(set_to_none=True)

    def _whole_norm(self, norm: Any) -> Any:
        return norm

    def _read(self, values: torch.Tensor) -> list[float]:
        """Values on the device, mean over all processes: what is NaN or infinite in one of them is so in all."""
        return list(values.tolist())

    # What a step reports back.

    def step_done(self) -> None:
        """A step was completed."""

    def out_of_memory(self, message: str, all_know: bool) -> None:
        """Memory ran out in this process during a step. Returns if all processes can retry it with less.

        Args:
            message: of the error; the error itself would hold the tensors of the failed step.
            all_know: it is a ``SharedOutOfMemory``.

        Raises:
            Unreachable: the other processes cannot be told, so the run has to end.
        """

    def check_update_repeatable(self) -> None:
        """Check that an optimizer update in which memory ran out can be tried again.

        Raises:
            UserError: it cannot: other processes may have completed it.
        """

    def fallback_taken(self) -> None:
        """Memory ran out and settings have changed, so the peak memory of a step is unknown again."""

    # What happens between steps.

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Call ``work()`` on main, which may use ``gather_full_weights`` in it; None elsewhere."""
        return work()

    def gather_full_weights(self, with_optimizer: bool = False) -> None:
        """Gather the current weights of all processes into main's ``trainable.master``. Call within ``on_main`` only.

        Args:
            with_optimizer: gather the optimizer's state into ``full_optimizer``, too.
        """

    @contextmanager
    def full_net(self) -> Iterator[Any]:
        """On main, within ``on_main``: the whole control net in the run's precision, where it computes."""
        yield self._run.trainable.control_net

    @property
    def full_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer whose state a checkpoint holds."""
        return self._run.optimizer
