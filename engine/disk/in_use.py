"""Renames and removals that wait until other programs have closed the files.

Windows refuses to rename or remove a file that another program has open, and a folder in which one is open. Virus
scanners, the search index, backups and viewers open new files for a moment, large ones for some seconds, just when
this app gives them their final names. Other systems allow it, and none of their errors is waited for. Standard library
only; the installer, which imports nothing from the engine, has a short form of it (``engine/install/layout.py``).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long an action is repeated before its error counts."""
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
"""Seconds between two attempts; they double."""
IN_USE = (5, 32, 33, 145, 1224)
"""ERROR_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION, _DIR_NOT_EMPTY (a removed file that is still open keeps its
name) and _USER_MAPPED_FILE. Windows says "access denied" for an open file in a folder that is to be renamed, too."""


def is_in_use(error: BaseException) -> bool:
    """Whether the system refused because a program has a file open: only Windows does."""
    return isinstance(error, OSError) and getattr(error, "winerror", None) in IN_USE


def until_free(action: Callable[[], T]) -> T:
    """Return ``action()``, repeated for `PATIENCE_SECONDS` while it raises an error of `is_in_use`.

    Raises:
        OSError: the last attempt's error; other errors at once.
    """
    end, wait = time.monotonic() + PATIENCE_SECONDS, FIRST_WAIT
    while True:
        try:
            return action()
        except OSError as error:
            left = end - time.monotonic()
            if not is_in_use(error) or left <= 0:
                raise
        time.sleep(min(wait, left))
        wait = min(LONGEST_WAIT, wait * 2)


def rename(source: Path, target: Path) -> None:
    """Rename a file, which replaces an existing ``target``, or a folder, for which ``target`` has to be free.

    Raises:
        OSError: the system refuses it, or a program keeps a file open. Both names are as they were.
    """
    until_free(lambda: os.replace(source, target))


def remove_file(path: Path) -> None:
    """Remove a file. It may be missing. Raises OSError."""
    until_free(lambda: path.unlink(missing_ok=True))


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it. It may be missing.

    Raises:
        OSError: a file cannot be removed, or a program keeps one open. The rest may be gone by then.
    """
    until_free(lambda: _remove_folder(folder))


def _remove_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():  # only a file in it vanished meanwhile
            shutil.rmtree(folder)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it. It may be missing. Raises OSError."""
    remove_folder(path) if path.is_dir() and not path.is_symlink() else remove_file(path)


def clear(path: Path) -> bool:
    """Like `remove`, for files that are no longer needed: what cannot be removed stays. Returns whether all is gone."""
    try:
        remove(path)
    except OSError:
        return False
    return True
