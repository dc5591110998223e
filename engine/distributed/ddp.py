"""A step shared by several processes: the same images, in the same order, whatever their number.

accelerate wraps the net that computes in torch's DistributedDataParallel: gradients travel while the backward pass is
still going on (Li et al. 2020, arXiv 2006.15704). Where one process runs out of memory in the middle of that, the
others cannot be called back. As a rule memory runs out in the first steps, so those keep their gradients at home until
all are known to be well, and accelerate averages them then: all can take a rung of the ladder together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import DistributedDataParallelKwargs
from torch.nn.parallel import DistributedDataParallel

from engine.config import RunConfig
from engine.distributed.group import OutOfReach, Short
from engine.errors import UserError
from engine.nets.master_weights import WorkingNets
from engine.training import oom

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

T = TypeVar("T")

CAUTIOUS = 2
"""Steps after the start and after a rung that keep gradients at home: one without and one with the optimizer's
memory."""
DDP_SETTINGS = DistributedDataParallelKwargs(gradient_as_bucket_view=True)


def dealt(config: RunConfig, count: int) -> tuple[RunConfig, str]:
    """The settings with which ``count`` processes do together what one would do, and a sentence about it.

    A step has ``batch_size`` x ``accumulation`` images in all. Batches that would have been added up one after
    another are dealt to the processes; where there are too few of them, each is cut into smaller ones. In the settings
    that come back ``batch_size`` is what one process sees at once, ``accumulation`` the batches of a whole step.

    Raises:
        UserError: the images of a step cannot be dealt evenly.
    """
    if count == 1:
        return config, ""
    train, images = config.train, config.images_per_step
    if images % count:
        fitting = -(-images // count) * count
        raise UserError(
            f"{count} processes cannot share a step of {images} images evenly.",
            f"Batch size {train.batch_size} x gradient accumulation {train.accumulation} is {images}, which "
            f"{count} does not divide.",
            f"Choose a batch size and accumulation whose product it divides ({fitting}, say), or start another number "
            "of processes.",
        )
    sizes = range(train.batch_size, 0, -1)
    size = next(s for s in sizes if train.batch_size % s == 0 and images // s % count == 0)
    changes = {"batch_size": size, "accumulation": images // size}
    shared = config.model_copy(update={"train": train.model_copy(update=changes)})
    times = f", {images // size // count} times" if images // size > count else ""
    words = f"{count} processes share the {images} images of a step: {size} at a time on each{times}."
    return shared, words


class Sharing:
    """The net that computes, as accelerate has prepared it, and how the gradients of all processes come together."""

    divided = False
    """Each process holds the whole net; see ``engine.distributed.fsdp`` for the other way."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._group = trainer, trainer.processes
        self._cautious = CAUTIOUS
        self._on_their_way = False
        self._apart: list[torch.nn.Parameter] = []  # what learns outside of the net that was prepared

    def prepare(self) -> tuple[Any, Any]:
        """The net that computes, and the optimizer, as accelerate gives them back; once, before the first step."""
        trainer, net = self._trainer, self._trainer.nets.controlnet
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        fixed = [*frozen, *(name for name, _ in net.named_buffers())]  # the same everywhere, and fp8 cannot be sent
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, fixed)
        with self._group.listening():
            model = trainer.accelerator.prepare_model(net)
        if self._group.count > 1 and trainer.nets.apart:
            # A lambda: torch compares annotations with its own types, and ours are words.
            model.register_comm_hook(trainer.nets, lambda nets, bucket: average_in_fp32(nets, bucket))
        wrapped = {trainer.nets.learner_of.get(p, p) for p in net.parameters() if p.requires_grad}
        self._apart = [p for p in trainer.learning.parameters() if p.requires_grad and p not in wrapped]
        return model, trainer.accelerator.prepare_optimizer(trainer.optimizer)

    @contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch, of which ``last`` is the last one of a step.

        Raises:
            Short: another process ran out of memory before this point.
        """
        if self._group.count == 1:
            yield
        elif last and not self._cautious:
            self._group.agree()
            self._on_their_way = True
            with self._group.listening():
                yield
            self._trainer.nets.forget_gradients()  # what is left in the copies' buckets
        else:
            with self._trainer.accelerator.no_sync(self._trainer.model):
                yield

    def combine(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The loss that ``work()`` gives and the gradients that it leaves, each the mean over all processes.

        Raises:
            Short: memory ran out on one of them, and all can go on with less. OutOfReach: it ran out on this one
            while gradients were on their way; a resume begins with less.
        """
        if self._group.count == 1:
            return work()
        self._on_their_way, words = False, ""
        try:
            loss = work()
            if not self._on_their_way:
                self._group.agree()
                self._on_their_way = True
                self._average(self._trainer.learning.parameters())
            else:
                self._average(self._apart)
            return self._mean(loss)
        except Short:
            raise
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            words = str(error) or "out of memory"  # not the error itself: it holds the tensors of the try
        if self._on_their_way:
            self._end(words)
        self._group.agree(words)
        raise AssertionError("not reached: with words, no agreement")

    def _end(self, words: str) -> NoReturn:
        """The others cannot be told any more that memory ran out here."""
        rung = oom.note_for_resume(self._trainer)
        raise OutOfReach(
            f"Memory ran out at step {self._trainer.step + 1:,} while gradients were on their way.",
            f"The other processes could not be called back any more: {words[:200]}",
            f"Resume: the run goes on from its last checkpoint with {rung}.",
        )

    def attend(self, work: Callable[[], T]) -> T | None:
        """What main owes between two steps; the others have nothing to do with it."""
        return work()

    def bring_home(self, with_optimizer: bool = False) -> None:
        """Nothing to do: every process has the whole net."""

    def went_well(self) -> None:
        """A step was taken: one less that has to be cautious."""
        self._cautious = max(0, self._cautious - 1)

    def be_cautious(self) -> None:
        """Memory ran out; the settings have changed."""
        self._cautious = CAUTIOUS

    @contextmanager
    def computing_net(self) -> Iterator[Any]:
        """The whole net where it computes and in the run's precision."""
        yield self._trainer.nets.controlnet

    @property
    def whole_optimizer(self) -> torch.optim.Optimizer:
        """What a checkpoint is written of."""
        return self._trainer.optimizer

    def _average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(self._mean(parameter.grad))

    def _mean(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._group.listening():
            mean: torch.Tensor = self._trainer.accelerator.reduce(tensor, "mean")
        return mean


def average_in_fp32(nets: WorkingNets, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel's communication hook for copies in half precision.

    Each has handed its gradient over to the weight that learns already, where those of a step are added up in fp32; so
    that sum is what travels, and nothing is rounded to half precision on the way. The bucket itself holds zeros.
    """
    sent = bucket.buffer()
    gradients = [nets.learner_of[computing].grad for computing in bucket.parameters()]
    sums = [gradient for gradient in gradients if gradient is not None]
    flat = torch.cat([gradient.reshape(-1).to(sent.device) for gradient in sums]).div_(dist.get_world_size())

    def bring(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        means = future.value()[0].split([gradient.numel() for gradient in sums])
        for gradient, mean in zip(sums, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return sent

    return dist.all_reduce(flat, async_op=True).get_future().then(bring)


def align(trainer: Trainer) -> None:
    """Before the first step: all processes stand at the same one, with main's weights.

    Raises:
        UserError: they have found different checkpoints.
    """
    group = trainer.processes
    if len(set(group.gather(trainer.step))) > 1:
        raise UserError(
            "The processes would start from different steps.",
            f"They see different checkpoints in {trainer.run_folder}.",
            "The workspace must be one folder that all machines share (docs/several-cards.md).",
        )
    group.align(p for p in trainer.learning.parameters() if p.requires_grad)  # the base's fp8 cannot be sent
    trainer.nets.refresh()
