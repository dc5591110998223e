"""Freed memory goes back: to the graphics card, and to the system what the C library kept.

A checkpoint, a set of images and the loading of a run fill many blocks of all sizes for a moment. What is freed
again stays with glibc, cut up by the few small blocks in between that live on, and the next time finds no piece that
is large enough: the process grows by a megabyte or two each time although it holds no more than before. So after such
work the library is asked to let whole pages go.

glibc also has many heaps (arenas), up to eight for each core, and every new thread takes another one: one for each
training that is resumed, and for each of the server's. What the last training left free in its own is of no use to the
next one. So the app has two.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from engine.machine.errors import is_out_of_memory

T = TypeVar("T")
M_ARENA_MAX, ARENAS = -8, 2  # the first: malloc.h


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where there is another C library, which has no such call and may need none."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)  # type: ignore[no-any-return]
    except (OSError, AttributeError):
        return None  # musl


def use_few_arenas() -> bool:
    """Call before the first thread; whether it was done. A number that the user has set (MALLOC_ARENA_MAX) stays."""
    option = _glibc("mallopt")
    return option is not None and "MALLOC_ARENA_MAX" not in os.environ and bool(option(M_ARENA_MAX, ARENAS))


def give_back_memory() -> bool:
    """Ask for it; whether anything was given back. Takes milliseconds; no live object is touched."""
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def attempt(action: Callable[[], T]) -> T | None:
    """``action()``, or None where memory ran out; then nothing of the try is held any more."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def free_memory() -> None:
    """Give what is no longer referenced back to the graphics card; where there is none, to this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
