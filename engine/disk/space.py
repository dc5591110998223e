"""Free disk space, checked before it is needed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from engine.errors import UserError
from engine.machine.units import format_bytes


class DiskFull(UserError):
    """The disk has too little free space for something that is about to be written."""

    def __init__(self, folder: Path, needed: int, free: int, what: str) -> None:
        self.folder, self.needed = folder, needed
        super().__init__(
            f"{what} was not written.",
            f"It needs {format_bytes(needed)}, and {format_bytes(free)} are free on the disk.",
            "Free some space and resume; the last checkpoint is complete.",
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull if fewer than ``needed`` bytes are free. ``what`` begins the message, as in "The checkpoint"."""
    free = free_bytes(folder)
    if free < needed:
        raise DiskFull(folder, needed, free, what)


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder. Files and folders that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):  # Path.rglob raises an error for a folder that vanishes
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
