"""One piece of work done by several processes, one a card, on one machine or more.

``accelerate launch`` (or ``torchrun``) starts them all with the same command; each finds out here which one it is. The
first, called main, is the only one that writes, prints and answers. They speak over two ways: a few numbers and words
over the processors (gloo), where waiting for hours costs nothing, and gradients over what the cards have (NCCL).

Every exchange begins with one small message in which each says whether it is well. So a fault on one of them ends all
of them, at the same place and with its words, and one that was killed is missed at once.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long the others wait for main, which may draw pictures or encode captions meanwhile."""
FAREWELL = timedelta(seconds=30)
"""How long one that has failed waits for the others to hear of it."""
BUCKET = 8 * 2**20
"""Numbers averaged in one message: few messages, and little memory beside the gradients."""

WELL, SHORT_OF_MEMORY, CANCELLED, FAILED = range(4)
STOPS = (None, "pause", "stop")


class Lost(UserError):
    """Another process has gone without a word."""


class CancelledElsewhere(Cancelled):
    """Another process was asked to end while it prepared."""


class Elsewhere(UserError):
    """Another process has failed; these are its words."""


class Processes:
    """This process among its like; a single one is ``ALONE``, for which every exchange is its own answer."""

    def __init__(self, rank: int = 0, count: int = 1, words: Any = None, card: str = "cuda") -> None:
        """
        Args:
            rank: 0 is main.
            words: the process group for numbers and words; that for tensors is the default one.
            card: what torch calls this process's graphics card, where there is one. Needed by name: threads other than
                the first one would take the first card.
        """
        self.rank, self.count, self.card = rank, count, card
        self.main = rank == 0
        self._words = words

    def tell(self, make: Callable[[], T]) -> T:
        """What ``make()`` gives on main, on all. The others wait; where it fails there, it fails everywhere."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        told: list[Any] = [make() if self.main else None]  # where it raises, ``farewell`` tells the others
        self._exchange(WELL)
        self._heard(lambda: dist.broadcast_object_list(told, src=0, group=self._words))
        return told[0]

    def wait(self) -> None:
        """Go on when all have come this far.

        Raises:
            Cancelled: another was asked to end. Elsewhere: another has failed. Lost: another is gone.
        """
        if self.count > 1:
            self._exchange(WELL)

    def main_first(self, work: Callable[[], T]) -> T:
        """``work()`` on main, then on the others, which find done what main has left on disk."""
        if not self.main:
            self.wait()
        done = work()
        if self.main:
            self.wait()
        return done

    def may_go_on(self, token: Token, enough: bool) -> bool:
        """Before each step: no process was asked to end, and main has not had enough. The same answer for all.

        Afterwards every token says what any of them was asked for.
        """
        if self.count == 1:
            return token.stop is None and not enough
        stop, flat = self._exchange(WELL, STOPS.index(token.stop), int(enough and self.main))[1:]
        if token.stop is None and stop:
            token.follow("stop" if STOPS[stop] == "stop" else "pause")
        return not (stop or flat)

    def combine(self, work: Callable[[], torch.Tensor], learning: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        """The loss that ``work()`` gives and the gradients that it leaves, each the mean over all processes.

        Raises:
            MemoryError: it ran out on one of them, so that all shall go on with less.
        """
        if self.count == 1:
            return work()
        from engine.training.ladder import out_of_memory

        loss, words = None, ""
        try:
            loss = work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            words = str(error)  # not the error itself: it holds the tensors of the try
        if self._exchange(WELL if loss is not None else SHORT_OF_MEMORY)[0] == SHORT_OF_MEMORY or loss is None:
            raise MemoryError(words or "out of memory in another process")
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        self._heard(lambda: average([loss.reshape(1), *gradients], self.count, self._words))
        return loss

    def align(self, tensors: Iterable[torch.Tensor]) -> None:
        """Everyone's tensors become main's, in place."""
        if self.count > 1:
            import torch.distributed as dist

            self._exchange(WELL)
            for tensor in tensors:
                way = self._words if tensor.device.type == "cpu" else None
                self._heard(partial(dist.broadcast, tensor.detach(), src=0, group=way))

    def gather(self, value: T) -> list[T]:
        """Everyone's plain value, main's first."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        self._exchange(WELL)
        values: list[Any] = [None] * self.count
        self._heard(lambda: dist.all_gather_object(values, value, group=self._words))
        return values

    def mine(self, number: int) -> bool:
        """Whether piece ``number`` of a work that is dealt out in turn is this process's."""
        return number % self.count == self.rank

    def farewell(self, error: BaseException) -> None:
        """Tell the others, wherever they are, that this one ends, and why. Called where everything is caught."""
        if self.count == 1 or isinstance(error, Lost | Elsewhere | CancelledElsewhere):
            return
        cancelled = isinstance(error, Cancelled)
        state = CANCELLED if cancelled else FAILED
        if not cancelled and not self.main:
            print(f"\n{self._name()}: {in_words(error)}", file=sys.stderr, flush=True)
        with suppress(UserError, Cancelled):  # its own error is on its way already; these are the others' answers
            self._exchange(state, error=error, patience=FAREWELL)

    def _name(self) -> str:
        return f"Process {self.rank + 1} of {self.count} ({socket.gethostname()})"

    def _exchange(
        self, state: int, *numbers: int, error: BaseException | None = None, patience: timedelta | None = None
    ) -> list[int]:
        """The largest of each number over all processes, the state in front. Raises for all what one has to raise."""
        import torch
        import torch.distributed as dist

        message = torch.tensor([state, *numbers, *[0] * (2 - len(numbers))])  # of one length, whoever asks what

        def send() -> None:
            work = dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._words, async_op=True)
            work.wait(timeout=patience or PATIENCE)

        self._heard(send)
        worst, *largest = message.tolist()
        if worst == FAILED:
            failures: list[Any] = [None] * self.count
            mine = (self._name(), in_words(error)) if state == FAILED and error is not None else None
            self._heard(lambda: dist.all_gather_object(failures, mine, group=self._words))
            where, what = next(failure for failure in failures if failure is not None)
            raise Elsewhere(
                "The work ended because one of its processes failed.", f"{where}: {what}",
                "Repair that, then resume: a training goes on from its last checkpoint.",
            )  # fmt: skip
        if worst == CANCELLED:
            raise CancelledElsewhere
        return [worst, *largest]

    def _heard(self, send: Callable[[], Any]) -> None:
        try:
            send()
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise UserError(
                    "Memory ran out while gradients were on their way.",
                    f"{self._name()}: {str(error)[:200]}",
                    "Choose a smaller batch size (the same pictures a step with more accumulation) and resume.",
                ) from error
            raise Lost(
                "The work ended because one of its processes is gone.",
                f"{self._name()} no longer hears from the others: one was killed, has crashed, or its machine is off "
                f"({str(error).splitlines()[0][:160]}).",
                "Look at what it said last, free memory if that was short, and resume: a training goes on from its "
                "last checkpoint.",
            ) from error


ALONE = Processes()
_current = ALONE


def current() -> Processes:
    """This process among those that were started with it."""
    return _current


def enter(group: Processes) -> None:
    """From now on this process is one of these. Only whoever starts and ends the work calls this."""
    global _current
    _current = group


def average(tensors: list[torch.Tensor], count: int, words: Any) -> None:
    """The mean over ``count`` processes, in place. Neighbours of one type travel together.

    Args:
        words: the group for tensors in the computer's memory, where an offloaded optimizer wants its gradients.
    """
    import torch
    import torch.distributed as dist

    packs: list[list[torch.Tensor]] = []
    room = 0
    for tensor in tensors:
        alike = packs and packs[-1][0].dtype == tensor.dtype and packs[-1][0].device == tensor.device
        if not alike or room < tensor.numel():
            packs.append([])
            room = BUCKET
        packs[-1].append(tensor)
        room -= tensor.numel()
    for pack in packs:
        flat = torch.cat([tensor.reshape(-1) for tensor in pack]).div_(count)
        dist.all_reduce(flat, group=words if flat.device.type == "cpu" else None)
        parts = flat.split([tensor.numel() for tensor in pack])
        torch._foreach_copy_(pack, [part.view_as(tensor) for part, tensor in zip(parts, pack, strict=True)])


def in_words(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, UserError):
        return f"{error.what} {error.why} {error.try_this}"
    return f"{type(error).__name__}: {error}"[:500]


def started() -> int:
    """How many processes were started together; 1 where this is the only one. Imports nothing."""
    return int(os.environ.get("WORLD_SIZE") or 1) if os.environ.get("LOCAL_RANK") else 1
