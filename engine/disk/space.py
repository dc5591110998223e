"""Room on the disk, asked for before it is needed, and what a disk's refusals mean."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from engine.errors import UserError
from engine.machine.units import format_bytes

FULL = {errno.ENOSPC, errno.EFBIG, *({errno.EDQUOT} if hasattr(errno, "EDQUOT") else ())}
WINDOWS_FULL = (39, 112)
_CODE = re.compile(r"os error (\d+)")


class NoRoom(UserError):
    """The disk lacks room for something that was about to be written."""

    def __init__(self, folder: Path, needed: int, free: int, what: str) -> None:
        self.folder, self.needed = folder, needed
        super().__init__(
            f"{what} was not written.",
            f"It needs {format_bytes(needed)} and the disk has {format_bytes(free)} left.",
            "Free some space and resume; the last checkpoint is whole.",
        )


def free_bytes(folder: Path) -> int:
    """Room on the disk that holds a folder, or will hold it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def demand_room(folder: Path, needed: int, what: str) -> None:
    """Raises NoRoom where ``what`` (the start of a sentence) needs more bytes than there are."""
    free = free_bytes(folder)
    if free < needed:
        raise NoRoom(folder, needed, free, what)


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or a limit of this account on it, is full."""
    return isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in FULL)


def as_disk_error(error: Exception) -> Exception:
    """The safetensors library wraps what the system says in an error of its own; this takes it out again.

    Anything else that it complains of is returned as it is.
    """
    found = _CODE.search(str(error))
    if found is None:
        return OSError(errno.EIO, str(error)[:200]) if "i/o error" in str(error).lower() else error
    code = int(found.group(1))
    if os.name == "nt" and code in WINDOWS_FULL:
        code = errno.ENOSPC
    return OSError(code, str(error)[:200])
