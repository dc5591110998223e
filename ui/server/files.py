"""The folder of uploads and of copies that pages were shown: it may not fill the disk."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

MOST_BYTES = 4 * 2**30
MOST_FILES = 20_000
YOUNG = 600.0  # seconds; what is younger may be in use and stays


def tidy(folder: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES, now: float | None = None) -> bool:
    """Remove the oldest files until the folder holds no more than that; whether it does.

    Links are removed, never followed. Folders that became empty go, too.
    """
    now = time.time() if now is None else now
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # taken away in between
            state = path.lstat()
            if path.is_symlink() or not path.is_dir():
                found.append((state.st_mtime, state.st_size, path))
    size, count = sum(entry[1] for entry in found), len(found)
    for changed, its_size, path in sorted(found, key=lambda entry: entry[0]):
        if size <= most_bytes and count <= most_files:
            return True
        if now - changed < YOUNG:
            return False
        try:
            path.unlink()
        except OSError:
            continue  # in use on Windows; the next one, then
        size, count = size - its_size, count - 1
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only if it is empty
    return size <= most_bytes and count <= most_files
