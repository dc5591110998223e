"""Counts objects, for tests that look for leaks."""

from __future__ import annotations

import gc
from typing import Any


def living_objects() -> list[Any]:
    """Every object that the garbage collector knows, after a collection; those that conftest.py froze are among them.

    They are frozen again afterwards: collecting a million objects of the libraries at each step takes minutes.
    """
    gc.unfreeze()
    gc.collect()
    found = gc.get_objects()
    gc.freeze()
    return found
