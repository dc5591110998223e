"""DDP: every process holds the whole net and computes a part of each step. The images and their order stay the same.

accelerate wraps the compute copy in torch's DistributedDataParallel: gradients are all-reduced while the backward pass
still runs (Li et al. 2020, arXiv 2006.15704). A process that runs out of memory in the middle of that cannot notify the
others. Memory usually runs out in the first steps, so these do not all-reduce during backward: gradients are averaged
after every process has reported success, so that all can take a fallback together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import torch
import torch.distributed as dist
from accelerate.utils import DistributedDataParallelKwargs
from torch.nn.parallel import DistributedDataParallel

from engine.distributed.group import SharedOutOfMemory, Unreachable
from engine.distributed.parallel import Parallel, TrainingRun
from engine.errors import UserError
from engine.nets.master_weights import MasterWeightSync

CAUTIOUS_STEPS = 2
"""Number of steps, after the start and after each fallback, in which gradients are not all-reduced during backward:
peak memory is known only after the optimizer has allocated its state."""
DDP_SETTINGS = DistributedDataParallelKwargs(gradient_as_bucket_view=True)


class DDP(Parallel):
    """DistributedDataParallel around the compute copy."""

    not_compiled = "several processes share this run"

    def __init__(self, run: TrainingRun, record_fallback: Callable[[], str]) -> None:
        super().__init__(run, record_fallback)
        self._cautious_steps = CAUTIOUS_STEPS
        self._computing = False
        """Between the start of a step and the end of ``average_gradients_and_loss``."""
        self._all_reducing = False
        """Gradients are being exchanged, so the other processes cannot be notified of anything."""
        self._outside: list[torch.nn.Parameter] = []  # trained, but not part of the wrapped net

    def prepare(self) -> None:
        trainable, net = self._run.trainable, self._run.trainable.weights.compute
        trainable.weights.offload.wait_for_each()  # gradients are exchanged in the middle of the backward pass
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        ignored = [*frozen, *(name for name, _ in net.named_buffers())]  # the same everywhere, and fp8 cannot be sent
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ignored)
        with self._group.collective():
            self.net = self._run.accelerator.prepare_model(net)
        if trainable.weights.separate:
            # A lambda, because torch compares a hook's annotations with its own types, and ours are strings.
            self.net.register_comm_hook(trainable.weights, lambda weights, bucket: all_reduce_fp32(weights, bucket))
        wrapped = {trainable.weights.master_of.get(p, p) for p in net.parameters() if p.requires_grad}
        self._outside = [p for p in trainable.parameters() if p.requires_grad and p not in wrapped]
        self.wrap_optimizer()

    def begin_step(self) -> None:
        self._computing, self._all_reducing = True, False

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Wrap forward and backward of a micro-batch; gradients are all-reduced in the ``last`` one's backward pass.

        Raises:
            SharedOutOfMemory: another process ran out of memory before this point.
        """
        if last and not self._cautious_steps:
            self._group.all_ok()
            self._all_reducing = True
            with self._group.collective():
                yield
            self._run.trainable.weights.drop_gradients()  # those left in the buckets of the compute copy
        else:
            with self._run.accelerator.no_sync(self.net):
                yield

    def average_gradients_and_loss(self, loss: torch.Tensor) -> torch.Tensor:
        if self._all_reducing:
            self._average(self._outside)
        else:
            self._group.all_ok()
            self._all_reducing = True
            self._average(self._run.trainable.parameters())
        mean = self._mean(loss)
        self._computing = False
        return mean

    def step_done(self) -> None:
        self._cautious_steps = max(0, self._cautious_steps - 1)

    def out_of_memory(self, message: str, all_know: bool) -> None:
        computing, self._computing = self._computing, False
        if not computing or all_know:
            return
        if self._all_reducing:
            self._end(message)
        with suppress(SharedOutOfMemory):  # this call raises it here as well
            self._group.all_ok(message or "out of memory")

    def check_update_repeatable(self) -> None:
        raise UserError(
            f"Memory ran out in the middle of optimizer step {self._run.step + 1:,}.",
            "Other processes may have already completed that step, so it cannot be tried again with less memory.",
            "Resume with less memory: add --set train.batch_size=1, --set train.gradient_checkpointing=both or --set "
            "optim.optimizer=adafactor to the command.",
        )

    def fallback_taken(self) -> None:
        self._cautious_steps = CAUTIOUS_STEPS

    def _read(self, values: torch.Tensor) -> list[float]:
        return super()._read(self._mean(values))

    def _end(self, message: str) -> NoReturn:
        """End the run: the other processes are in a collective and cannot be notified that memory ran out here."""
        fallback = self._record_fallback()
        raise Unreachable(
            f"Memory ran out at step {self._run.step + 1:,} while gradients were being exchanged.",
            f"The other processes could no longer be stopped: {message[:200]}",
            f"Resume: the run continues from its last checkpoint with {fallback}.",
        )

    def _average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(self._mean(parameter.grad))

    def _mean(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._group.collective():
            mean: torch.Tensor = self._run.accelerator.reduce(tensor, "mean")
        return mean


def all_reduce_fp32(weights: MasterWeightSync, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel's communication hook for compute copies in half precision.

    A step's gradients have already been accumulated in fp32, as the gradients of the master weights. These sums are
    all-reduced, so nothing is rounded to half precision on the way. The bucket itself holds zeros.
    """
    sent = bucket.buffer()
    gradients = [weights.master_of[compute].grad for compute in bucket.parameters()]
    sums = [gradient for gradient in gradients if gradient is not None]
    flat = torch.cat([gradient.reshape(-1).to(sent.device) for gradient in sums]).div_(dist.get_world_size())

    def copy_means(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        means = future.value()[0].split([gradient.numel() for gradient in sums])
        for gradient, mean in zip(sums, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return sent

    return dist.all_reduce(flat, async_op=True).get_future().then(copy_means)
