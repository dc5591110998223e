"""Bytes, durations and counts as text for people.

A GB is 2**30 bytes and an MB 2**20 everywhere in the app, for memory, disks and files. Graphics cards and RAM are sold
in that unit, and nvidia-smi, PyTorch and Windows' file manager count in it, so that "8 GB card", "needs 6.4 GB" and
"12.3 GB free" can be compared. File managers that count in powers of ten show up to 7 % more for the same disk. The
installer (``engine/install``) counts the same, but imports nothing from the engine and so writes these numbers itself.
"""

from __future__ import annotations

MIB = 2**20
GIB = 2**30


def format_bytes(count: float) -> str:
    """A number of bytes with its unit: 2048 -> "2 KB", 6.4 * 2**30 -> "6.4 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit in ("B", "KB") else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def format_memory(gib: float) -> str:
    """The memory of a card or computer, in GiB, as it is sold: 7.8 -> "8 GB"."""
    return f"{gib:.0f} GB"


def format_duration(seconds: float) -> str:
    """A number of seconds in the unit that fits it: 75 -> "75 s", 10_000 -> "2 h 47 min", 200_000 -> "2.3 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 10 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{seconds / 86400:.1f} days"


def plural(number: float, one: str, many: str = "") -> str:
    """The word that goes with a number: ``plural(1, "is", "are")`` -> "is". Without ``many`` an s is added."""
    return one if number == 1 else many or f"{one}s"


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what is counted: "1 image", "0 images", "2,000 images". ``many``: see ``plural``."""
    return f"{number:,} {plural(number, one, many)}"
