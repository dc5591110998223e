"""Tells whether a file's date can show a later change."""

from __future__ import annotations

import time

COARSEST_SECONDS = 2.0
"""Steps of the dates on FAT. exFAT's are 10 ms, but some systems write only its 2 s part."""


def shows_changes(changed_ns: int) -> bool:
    """Whether every later change gives a file or folder another date than this one.

    Two changes within one step of the dates get the same one, so what was read right after a change must be read again.

    Args:
        changed_ns: its date of change (``st_mtime_ns``).
    """
    return abs(time.time() - changed_ns / 1e9) > COARSEST_SECONDS
