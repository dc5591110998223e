"""Files that outlive a power cut, and checksums that tell whether they are what was written. Standard library only.

A rename may reach the disk before the bytes of the file that it names: what is renamed into place is flushed first,
and the folder that holds the new name afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

THREADS = 4
"""Hashing and flushing give the interpreter free: the next file is written meanwhile."""


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits: what ``sha256sum`` prints.

    It is the fastest cryptographic hash here: processors since about 2018 have instructions for it.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths: Sequence[Path]) -> list[str]:
    """Of several files, some at a time. Raises OSError where one cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(checksum, paths))


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk. Windows writes them through by itself and has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot; the rename is then theirs to keep
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Sealing:
    """Checksums and flushes of files while the next ones are being written.

    with Sealing() as sealing:
        write(path); sealing.add(path)
    sealing.sums()
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._waiting: dict[Path, Future[str]] = {}

    def __enter__(self) -> Sealing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for all that was added; ``sums`` may be asked afterwards, too."""
        self._pool.shutdown(wait=True)

    def add(self, *paths: Path) -> None:
        """Files, or folders with all their files, that are written and not touched again."""
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    self._waiting[file] = self._pool.submit(_seal, file)

    def sums(self) -> dict[Path, str]:
        """Waits for all. Raises OSError where the disk could not take one."""
        return {path: future.result() for path, future in self._waiting.items()}


def _seal(path: Path) -> str:
    found = checksum(path)
    flush(path)
    return found
