"""Freed memory goes back: to the graphics card, and to the system what the C library kept.

A checkpoint, a set of pictures and the loading of a run fill many blocks of all sizes for a moment. What is freed
again stays with glibc, cut up by the few small blocks in between that live on, and the next time finds no piece that
is large enough: the process grows by a megabyte or two each time although it holds no more than before. So after such
work the library is asked to let whole pages go.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of glibc; None where there is another C library, which has no such call and may need none."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None  # musl


def give_back_memory() -> bool:
    """Ask for it; whether anything was given back. Takes milliseconds; no live object is touched."""
    trim = _trim()
    return trim is not None and bool(trim(0))


def free_memory() -> None:
    """Give what is no longer referenced back to the graphics card; where there is none, to this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
