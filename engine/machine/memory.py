"""Giving freed memory back, to the graphics card and to the system, and trying again with less when it runs out.

A checkpoint, a set of images and the start of a run allocate many blocks of all sizes for a moment. glibc keeps what is
freed again, but small blocks that live on cut it up, and the next allocation finds no piece that is large enough: the
process grows by a megabyte or two each time although it holds no more than before. So after such work glibc is asked to
return whole pages.

glibc also has many heaps (arenas), up to eight for each core, and every new thread takes another one: each resumed run,
and each of the server's threads. The next run cannot use what the last one left free in its arena. So the app limits
itself to two arenas.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from engine.machine.capabilities import capabilities
from engine.machine.errors import is_out_of_memory

S = TypeVar("S")
T = TypeVar("T")
WINDOWS_SPARE_BYTES = 256 * 2**20
"""What the limit on Windows leaves to the desktop."""
M_ARENA_MAX, ARENAS = -8, 2  # M_ARENA_MAX: malloc.h


@cache
def glibc_function(name: str) -> Callable[..., int] | None:
    """A function of glibc, or None under another C library, which has no such call and may need none."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)  # type: ignore[no-any-return]
    except (OSError, AttributeError):
        return None  # musl


def limit_arenas() -> bool:
    """Limit glibc to two arenas. Call it before the first thread starts. A limit in MALLOC_ARENA_MAX stays.

    Returns whether the limit was set.
    """
    option = glibc_function("mallopt")
    return option is not None and "MALLOC_ARENA_MAX" not in os.environ and bool(option(M_ARENA_MAX, ARENAS))


def trim_heap() -> bool:
    """Return freed heap memory to the system. Takes milliseconds. Returns whether anything was released."""
    trim = glibc_function("malloc_trim")
    return trim is not None and bool(trim(0))


def free_memory() -> None:
    """Collect garbage and release the memory that torch keeps cached on the graphics card."""
    from engine.machine.device import empty_cache

    gc.collect()
    empty_cache()


def usable_bytes(device: Any) -> float | None:
    """Graphics memory that this process can have: what it holds and what is free, up to a limit that was set.

    Args:
        device: a torch.device.

    Returns:
        None without a graphics card.
    """
    from engine.machine.device import is_card, memory_limit

    return min(_free_and_held(device), memory_limit(device)) if is_card(device) else None


def cap_allocator(device: Any) -> None:
    """On Windows, keep the driver from spilling into slow shared memory instead of refusing an allocation.

    Other programs take and free memory, so this is called whenever work on the card begins, and when memory ran out. On
    other systems an allocation that does not fit fails by itself, and nothing is capped.
    """
    from engine.machine.device import free_and_total, limit_memory

    if platform.system() != "Windows" or not capabilities(device.type).memory_limit:
        return
    share = (_free_and_held(device) - WINDOWS_SPARE_BYTES) / free_and_total(device)[1]
    limit_memory(device, min(1.0, max(0.1, share)))


def _free_and_held(device: Any) -> float:
    from engine.machine.device import free_and_total, reserved_bytes

    return float(free_and_total(device)[0] + reserved_bytes(device))


def none_if_out_of_memory(action: Callable[[], T]) -> T | None:
    """Return ``action()``, or None if memory ran out. The error, which would keep tensors alive, is gone by then."""
    return result_or_message(action)[0]


def result_or_message(action: Callable[[], T]) -> tuple[T | None, str]:
    """``none_if_out_of_memory``, and what the error said: empty if memory was enough."""
    try:
        return action(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None, str(error) or "out of memory"


class AdaptiveBatch:
    """A batch size that is halved when memory runs out, and stays at the smaller size.

    Args:
        size: how many items to begin with.
        smallest: give up when a batch of this many items does not fit.
        on_halved: called as on_halved(tried, next size).
    """

    def __init__(
        self, size: int, smallest: int = 1, on_halved: Callable[[int, int], None] = lambda tried, size: None
    ) -> None:
        self.size = size
        self._smallest, self._on_halved = smallest, on_halved

    def over(self, items: Sequence[S], work: Callable[[Sequence[S]], T]) -> Iterator[T]:
        """Yield ``work(batch)`` for the items in order. A batch that did not fit is done again in smaller ones.

        Raises:
            MemoryError: a batch of ``smallest`` items or fewer does not fit.
        """
        first = 0
        while first < len(items):
            batch = items[first : first + self.size]
            done = none_if_out_of_memory(partial(work, batch))
            if done is not None:
                first += len(batch)
                yield done
                continue
            free_memory()
            self.size = max(1, len(batch) // 2)
            if len(batch) <= self._smallest:
                raise MemoryError(f"out of memory with a batch of {len(batch)}")
            self._on_halved(len(batch), self.size)
