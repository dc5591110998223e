"""One piece of work done by several processes, one a card, on one machine or more.

``accelerate launch`` (or ``torchrun``) starts them all with the same command; each finds out here which one it is. The
first, called main, is the only one that writes, prints and answers. What travels is accelerate's business and torch's
DistributedDataParallel's (engine/distributed/ddp.py).

One thing is our own, for accelerate has nothing like it: every exchange begins with a small message, over a line of its
own, in which each says whether it is well. It may wait for hours (main draws images) where a gradient may not, gives
up early where somebody ends, and is free while gradients are stuck. So a fault on one of them ends all of them, at the
same place and with its words, and one that was killed is missed at once.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import UserError
from engine.jobs.control import Cancelled, Token

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long the others wait for main, which may draw images or encode captions meanwhile."""
FAREWELL = timedelta(seconds=30)
"""How long one that has failed waits for the others to hear of it."""
LINE_SIGNS = ("gloo", "NCCL", "Timed out", "Connection closed", "Connection reset")

WELL, SHORT_OF_MEMORY, CANCELLED, FAILED = range(4)
STOPS = (None, "pause", "stop")


class Lost(UserError):
    """Another process has gone without a word."""


class OutOfReach(UserError):
    """This process has to end while the others compute and cannot listen."""


class Short(MemoryError):
    """Memory ran out in one of the processes, and all of them know."""


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
            words: the process group for the small messages; everything else goes over the default one.
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
        from accelerate.utils import broadcast_object_list

        told: list[Any] = [make() if self.main else None]  # where it raises, ``farewell`` tells the others
        self._exchange(WELL)
        with self.listening():
            broadcast_object_list(told)
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

    def agree(self, short: str = "") -> None:
        """Go on when all have come this far with memory enough.

        Args:
            short: why this one has not; empty: it has.

        Raises:
            Short: memory ran out on one of them; the same for all.
        """
        if self.count > 1 and self._exchange(SHORT_OF_MEMORY if short else WELL)[0] == SHORT_OF_MEMORY:
            raise Short(short or "out of memory in another process")

    def align(self, tensors: Iterable[torch.Tensor]) -> None:
        """Everyone's tensors become main's, in place."""
        if self.count > 1:
            from accelerate.utils import broadcast

            self._exchange(WELL)
            with self.listening():
                for tensor in tensors:
                    broadcast(tensor.detach())

    def gather(self, value: T) -> list[T]:
        """Everyone's plain value, main's first."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        self._exchange(WELL)
        with self.listening():
            values: list[T] = gather_object([value])
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
        if isinstance(error, OutOfReach):
            return  # they find out when this one is gone
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

        with self.listening(talking=True):
            work = dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._words, async_op=True)
            work.wait(timeout=patience or PATIENCE)
        worst, *largest = message.tolist()
        if worst == FAILED:
            failures: list[Any] = [None] * self.count
            mine = (self._name(), in_words(error)) if state == FAILED and error is not None else None
            with self.listening(talking=True):
                dist.all_gather_object(failures, mine, group=self._words)
            where, what = next(failure for failure in failures if failure is not None)
            raise Elsewhere(
                "The work ended because one of its processes failed.", f"{where}: {what}",
                "Repair that, then resume: a training goes on from its last checkpoint.",
            )  # fmt: skip
        if worst == CANCELLED:
            raise CancelledElsewhere
        return [worst, *largest]

    @contextmanager
    def listening(self, talking: bool = False) -> Iterator[None]:
        """Around work that speaks with the others: a line that breaks ends it with words, those of the others if any.

        Args:
            talking: about one another, so that there is nobody left to ask.

        Raises:
            Lost, Elsewhere, Cancelled: instead of torch's own errors.
        """
        try:
            yield
        except RuntimeError as error:
            if not (talking or line_broke(error)):
                raise
            if not talking:
                self._exchange(WELL)  # one that has failed is waiting here to say so
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


def line_broke(error: RuntimeError) -> bool:
    """Whether it is of the way between the processes; gloo's errors are known by their words alone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in LINE_SIGNS)


def in_words(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, UserError):
        return f"{error.what} {error.why} {error.try_this}"
    return f"{type(error).__name__}: {error}"[:500]


def started() -> int:
    """How many processes were started together; 1 where this is the only one. Imports nothing."""
    return int(os.environ.get("WORLD_SIZE") or 1) if os.environ.get("LOCAL_RANK") else 1
