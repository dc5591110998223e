"""One process that updates each weight in the backward pass, as soon as its gradient is complete (optim.in_backward).

The gradient is freed at once, so those of the whole net never exist together (Lv et al. 2023, "LOMO", arXiv 2306.09782,
here with any optimizer). The updates are those of an ordinary step, but for clipping: the total norm of the gradients
is not known before the last of them. So each weight's gradient is clipped by its own norm. As long as the total norm
is below the limit, neither clips, and the bits are the same.

Where the trained weights are in RAM, a thread updates them there as their gradients arrive, and they go back to the
card beside the rest of the backward pass (Ren et al. 2021, "ZeRO-Offload", arXiv 2101.06840).

A gradient that is not finite is found when others have been used already. It counts as zero, and the step as skipped.
fp16 relies on steps that change nothing, so it cannot be trained this way.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import nn

from engine.config import RunConfig
from engine.distributed.parallel import Finite, Parallel, TrainingRun
from engine.errors import UserError
from engine.tuning import facts


class OptimizerInBackward(Parallel):
    """The optimizer's step is taken in parts, within the backward pass."""

    updated_before_skipping = (
        "Its weights are updated in the backward pass: those with finite gradients have been, and the others count "
        "as having a gradient of zero."
    )

    def __init__(self, run: TrainingRun, record_fallback: Callable[[], str]) -> None:
        super().__init__(run, record_fallback)
        self._complete: list[nn.Parameter] = []  # they have their gradients, and wait for their update
        self._done: set[nn.Parameter] = set()  # by a failed try of this step
        self._worker = ThreadPoolExecutor(1, "update")  # starts no thread until it is used
        self._under_way: deque[tuple[list[nn.Parameter], Future[None]]] = deque()
        self._finite = Finite(True, True)

    def prepare(self) -> None:
        super().prepare()
        self._watch_gradients()

    def take_over(self, other: Parallel) -> None:
        """Take over from another strategy; nets and optimizer stay wrapped."""
        self.net, self.optimizer = other.net, other.optimizer
        self._watch_gradients()

    def _watch_gradients(self) -> None:
        trained, complete = [p for p in self.parameters() if p.requires_grad], weakref.WeakMethod(self._gradient_done)

        def call(master: nn.Parameter) -> None:
            if (still := complete()) is not None:
                still(master)

        self._run.trainable.weights.when_complete(trained, call)

    def begin_step(self) -> None:
        self._complete.clear()

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of a loss, and update the weights with them. Waits for the card at each update."""
        self._finite = Finite(all(map(math.isfinite, self._read(loss.detach().float().reshape(1)))), True)
        with self._run.weights_update() as self._done:
            if self._finite.loss:
                try:
                    super().backward(loss)
                    self._run.trainable.weights.finish_gradients()
                    self._update()
                    self._send_updated(len(self._under_way))
                finally:
                    wait([future for _, future in self._under_way])
                    self._under_way.clear()

    @torch.no_grad()
    def _gradient_done(self, master: nn.Parameter) -> None:
        if master in self._done:
            self._run.trainable.weights.leave_out([master])
            return
        self._complete.append(master)
        if sum(parameter.numel() for parameter in self._complete) >= facts.UPDATED_TOGETHER:
            self._update()

    @torch.no_grad()
    def _update(self) -> None:
        """Clip the gradients that are complete, update their weights, and free them."""
        part, self._complete = self._complete, []
        if not part:
            return
        if self._run.trainable.weights.offload.in_use:
            self._under_way.append((part, self._worker.submit(self._update_in_ram, part)))
            self._send_updated(0)
            return
        self._clip(part)
        super().optimizer_step()
        for master in part:
            master.grad = None

    @torch.no_grad()
    def _update_in_ram(self, part: list[nn.Parameter]) -> None:
        """In a thread of its own, beside the backward pass, while gradients of other weights may arrive."""
        optimizer, those = self._run.optimizer, set(part)
        self._clip(part)
        whole = [group["params"] for group in optimizer.param_groups]
        try:
            for group, parameters in zip(optimizer.param_groups, whole, strict=True):
                group["params"] = [parameter for parameter in parameters if parameter in those]
            optimizer.step()
        finally:
            for group, parameters in zip(optimizer.param_groups, whole, strict=True):
                group["params"] = parameters
        for master in part:
            master.grad = None

    def _send_updated(self, wait_for: int) -> None:
        """Send updated weights to the card: those that are done, in order, and the first ``wait_for`` in any case."""
        while self._under_way and (wait_for > 0 or self._under_way[0][1].done()):
            part, future = self._under_way.popleft()
            future.result()
            self._run.trainable.weights.send(part)
            wait_for -= 1

    def _clip(self, part: list[nn.Parameter]) -> None:
        gradients = self._run.trainable.weights.gradients(part)
        limit = self._run.config.optim.max_grad_norm
        norms = self._read(torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)))
        for gradient, norm in zip(gradients, norms, strict=True):
            if not math.isfinite(norm):
                gradient.zero_()
                self._finite = Finite(True, False)
            elif (factor := limit / (norm + 1e-6)) < 1:
                gradient.mul_(factor)

    def unscale_and_clip(self, loss: torch.Tensor, max_norm: float, loss_scale: float) -> Finite:
        """Report what was finite. The weights were clipped and updated in the backward pass."""
        if not self._finite.gradients:
            self._run.trainable.weights.refresh()
        return self._finite

    def optimizer_step(self) -> None:
        """Do nothing: the backward pass has updated the weights."""


def use_optimizer_in_backward(parallel: Parallel) -> Parallel:
    """The strategy that replaces ``parallel`` between two steps of a run with one process."""
    new = OptimizerInBackward(parallel._run, parallel._record_fallback)
    new.take_over(parallel)
    return new


def check_optimizer_in_backward(config: RunConfig, dtype: torch.dtype, processes: int) -> None:
    """Check that a run can update its weights in the backward pass. Its settings are checked already.

    Args:
        dtype: what all processes compute in.

    Raises:
        UserError: it cannot; names every reason at once.
    """
    reasons = []
    if processes > 1:
        reasons.append(f"{processes} processes share it, so gradients have to be averaged before they are used.")
    if dtype == torch.float16:
        wanted = config.train.precision
        asked = "" if wanted == "fp16" else f" ({wanted} was requested, but at least one card does not support it)"
        reasons.append(f"It computes in fp16{asked}, where a step whose gradients overflow must not change any weight.")
    if reasons:
        raise UserError(
            "This run cannot update its weights in the backward pass.",
            " ".join(reasons),
            "Choose the precision bf16 on an RTX 30 card or newer, and start one process; or turn this off (Update "
            "in the backward pass, optim.in_backward, under All settings) and save memory in another way: with "
            "gradient checkpointing, the optimizer adafactor, or Offload to RAM.",
        )
