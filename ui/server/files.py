"""Which files the page may read and send, and how much the folder of uploads may hold."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**30
MAX_FILES = 20_000
MIN_AGE = 600.0
"""Seconds. A younger file may still be in use and is never removed."""


def file_allowed(path: str, folders: Iterable[Path]) -> bool:
    """Return whether ``path`` is a plain file inside one of the folders, after following links.

    Network paths (``\\\\server\\share``) are refused without touching them: asking Windows about one already sends the
    user's name and password hash to that server.
    """
    if not path or "\0" in path or "://" in path or path.startswith(("//", "\\\\", "/\\", "\\/")):
        return False
    if os.name == "nt" and ":" in path and not re.fullmatch(r"[A-Za-z]:[^:]*", path):
        return False  # an alternate data stream
    if not os.path.isabs(path):  # noqa: PTH117 (the text may not be a path at all)
        return False
    try:
        found = Path(path).resolve(strict=True)
        return found.is_file() and any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # missing, not a valid name, a loop of links
        return False


def has_forged_file(value: Any, uploads: Path) -> bool:
    """Return whether the data of a request names a file (``{"path": ...}``) that is not one of the uploads."""
    if isinstance(value, dict):
        path = value.get("path")
        if path is not None and not (isinstance(path, str) and file_allowed(path, (uploads,))):
            return True
        return any(has_forged_file(inner, uploads) for inner in value.values())
    if isinstance(value, list):
        return any(has_forged_file(inner, uploads) for inner in value)
    return False


def remove_old_uploads(
    folder: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES, now: float | None = None
) -> bool:
    """Remove the oldest files until the folder is within both limits. Return whether it is.

    Links are removed, never followed. Folders that become empty are removed as well.
    """
    now = time.time() if now is None else now
    found = []
    for place, inner, names in os.walk(folder):  # Path.rglob raises an error for a folder that vanishes
        for path in (Path(place, name) for name in (*names, *inner)):
            with contextlib.suppress(OSError):  # removed meanwhile
                state = path.lstat()
                if path.is_symlink() or not path.is_dir():
                    found.append((state.st_mtime, state.st_size, path))
    size, count = sum(entry[1] for entry in found), len(found)
    for modified, file_size, path in sorted(found, key=lambda entry: entry[0]):
        if size <= max_bytes and count <= max_files:
            return True
        if now - modified < MIN_AGE:
            return False
        try:
            path.unlink()
        except OSError:
            continue  # in use on Windows: try the next one
        size, count = size - file_size, count - 1
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only works if it is empty
    return size <= max_bytes and count <= max_files
