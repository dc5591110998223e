"""The processes of one run, one per card, on one machine or several.

``accelerate launch`` (or ``torchrun``) starts them all with the same command; each finds out here which one it is. The
first, called main, is the only one that writes, prints and answers. Tensors are exchanged by accelerate and torch's
DistributedDataParallel (ddp.py).

Accelerate lacks one thing: before each collective, all processes exchange a small status over a separate gloo
group. Its time-out is hours, not minutes (main may be drawing images), it returns early where a process ends, and it
works while NCCL is blocked. So a failure in one process ends all of them, at the same place and with its message, and
a killed process is noticed at once.
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

STATUS_TIMEOUT = timedelta(hours=12)
"""How long the others wait for main, which may be drawing images or encoding captions."""
ABORT_TIMEOUT = timedelta(seconds=30)
"""How long a failed process waits until the others know."""
CONNECTION_ERRORS = ("gloo", "NCCL", "Timed out", "Connection closed", "Connection reset")

OK, OUT_OF_MEMORY, CANCELLED, FAILED = range(4)
STOPS = (None, "pause", "stop")


class ProcessLost(UserError):
    """Another process ended without a message."""


class Unreachable(UserError):
    """This process has to end while the others are in a collective and cannot be told."""


class SharedOutOfMemory(MemoryError):
    """Memory ran out in one of the processes, and all of them know."""


class CancelledElsewhere(Cancelled):
    """Another process was cancelled while it prepared."""


class FailedElsewhere(UserError):
    """Another process failed; carries its message."""


class ProcessGroup:
    """This process's place in the group. ``ALONE`` is a group of one, in which every collective returns its input."""

    def __init__(self, rank: int = 0, world_size: int = 1, status: Any = None, card: str = "") -> None:
        """
        Args:
            rank: 0 is main.
            status: torch's process group for the status messages; everything else goes over the default one.
            card: torch's name of this process's graphics card, such as "cuda:1", where there are several. Threads
                other than the first one would otherwise use the first card.
        """
        self.rank, self.world_size, self.card = rank, world_size, card
        self.main = rank == 0
        self._status = status

    @property
    def alone(self) -> bool:
        """There is no other process, so this one may wait and repeat work: no other has to agree."""
        return self.world_size == 1

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call ``make()`` on main and return its result on every process. If it raises, every process raises."""
        if self.world_size == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        value: list[Any] = [make() if self.main else None]  # if it raises, ``abort_all`` tells the others
        self._exchange(OK)
        with self.collective():
            broadcast_object_list(value)
        return value[0]

    def barrier(self) -> None:
        """Wait until all processes are here.

        Raises:
            Cancelled: another was cancelled. FailedElsewhere: another failed. ProcessLost: another is gone.
        """
        if self.world_size > 1:
            self._exchange(OK)

    def main_first(self, work: Callable[[], T]) -> T:
        """Call ``work()`` on main, then on the others, which find its results on disk."""
        if not self.main:
            self.barrier()
        done = work()
        if self.main:
            self.barrier()
        return done

    def keep_going(self, token: Token, stop_early: bool) -> bool:
        """Whether to take another step: no process was asked to end, and main does not stop early. The same for all.

        Afterwards every process's token says what any of them was asked for.
        """
        if self.world_size == 1:
            return token.stop_requested is None and not stop_early
        stop, flat = self._exchange(OK, STOPS.index(token.stop_requested), int(stop_early and self.main))[1:]
        if token.stop_requested is None and stop:
            token.adopt_stop("stop" if STOPS[stop] == "stop" else "pause")
        return not (stop or flat)

    def all_ok(self, out_of_memory: str = "") -> None:
        """Wait until all processes are here, and check that none ran out of memory.

        Args:
            out_of_memory: this process's error; empty: none.

        Raises:
            SharedOutOfMemory: memory ran out in one of them; raised in all.
        """
        if self.world_size > 1 and self._exchange(OUT_OF_MEMORY if out_of_memory else OK)[0] == OUT_OF_MEMORY:
            raise SharedOutOfMemory(out_of_memory or "out of memory in another process")

    def broadcast_parameters(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite every process's tensors with main's, in place."""
        if self.world_size > 1:
            from accelerate.utils import broadcast

            self._exchange(OK)
            with self.collective():
                for tensor in tensors:
                    broadcast(tensor.detach())

    def gather(self, value: T) -> list[T]:
        """The plain values of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        from accelerate.utils import gather_object

        self._exchange(OK)
        with self.collective():
            values: list[T] = gather_object([value])
        return values

    def owns(self, number: int) -> bool:
        """Whether item ``number`` is this process's, of items that are assigned in turn."""
        return number % self.world_size == self.rank

    def abort_all(self, error: BaseException) -> None:
        """Tell the other processes, wherever they are, that this one ends, and why. For the outermost handler."""
        if self.world_size == 1 or isinstance(error, ProcessLost | FailedElsewhere | CancelledElsewhere):
            return
        cancelled = isinstance(error, Cancelled)
        state = CANCELLED if cancelled else FAILED
        if not cancelled and not self.main:
            print(f"\n{self._name()}: {one_line(error)}", file=sys.stderr, flush=True)
        if isinstance(error, Unreachable):
            return  # they notice when this process is gone
        with suppress(
            UserError, Cancelled
        ):  # this process's own error is raised already; these are the others' answers
            self._exchange(state, error=error, timeout=ABORT_TIMEOUT)

    def _name(self) -> str:
        return f"Process {self.rank + 1} of {self.world_size} ({socket.gethostname()})"

    def _exchange(
        self, state: int, *numbers: int, error: BaseException | None = None, timeout: timedelta | None = None
    ) -> list[int]:
        """The maximum of the state, and of each number, over all processes. A failure in one raises in all."""
        import torch
        import torch.distributed as dist

        message = torch.tensor([state, *numbers, *[0] * (2 - len(numbers))])  # all messages have one length

        with self.collective(status=True):
            work = dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self._status, async_op=True)
            work.wait(timeout=timeout or STATUS_TIMEOUT)
        worst, *largest = message.tolist()
        if worst == FAILED:
            failures: list[Any] = [None] * self.world_size
            mine = (self._name(), one_line(error)) if state == FAILED and error is not None else None
            with self.collective(status=True):
                dist.all_gather_object(failures, mine, group=self._status)
            where, what = next(failure for failure in failures if failure is not None)
            raise FailedElsewhere(
                "The job stopped because one of its processes failed.",
                f"{where}: {what}",
                "Fix that, then resume: training continues from its last checkpoint.",
            )
        if worst == CANCELLED:
            raise CancelledElsewhere
        return [worst, *largest]

    @contextmanager
    def collective(self, status: bool = False) -> Iterator[None]:
        """Wraps a collective: a broken connection raises an error that says what happened in the other processes.

        Args:
            status: it is the exchange of status messages itself, so no other channel is left.

        Raises:
            ProcessLost, FailedElsewhere, Cancelled: instead of torch's own errors.
        """
        try:
            yield
        except RuntimeError as error:
            if not (status or connection_broke(error)):
                raise
            if not status:
                self._exchange(OK)  # a process that failed is waiting here to say so
            raise ProcessLost(
                "The job stopped because one of its processes disappeared.",
                f"{self._name()} lost the connection to the others: one was killed or crashed, or its machine is off "
                f"({str(error).splitlines()[0][:160]}).",
                "Read the last output of the missing process, free some memory if it ran out, and resume: training "
                "continues from its last checkpoint.",
            ) from error


ALONE = ProcessGroup()
_current = ALONE


def current() -> ProcessGroup:
    """The group that this process belongs to."""
    return _current


def enter(group: ProcessGroup) -> None:
    """Make this the current group. Only the code that starts and ends the whole work calls this."""
    global _current
    _current = group


def connection_broke(error: RuntimeError) -> bool:
    """Whether the connection between processes failed; gloo's errors are known by their messages alone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in CONNECTION_ERRORS)


def one_line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, UserError):
        return f"{error.what} {error.why} {error.try_this}"
    return f"{type(error).__name__}: {error}"[:500]


def started() -> int:
    """How many processes were started together. Does not import torch."""
    return int(os.environ.get("WORLD_SIZE") or 1) if os.environ.get("LOCAL_RANK") else 1
