"""Writes that survive a power cut, and checksums that show whether a file is what was written.

A rename may reach the disk before the bytes of the file it names. So a file is written under a temporary name, flushed,
renamed, and then the folder that holds the new name is flushed. A reader sees the old file or the new one, never half.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from engine.disk.in_use import clear, remove_folder, rename

NO_FOLDERS = (errno.EACCES, errno.EISDIR, errno.EINVAL, errno.ENOTSUP)
"""What file systems say that do not open folders (FUSE, shares): the names in them cannot be flushed."""
THREADS = 4
"""Hashing and flushing release the interpreter lock, so that the next file can be written meanwhile."""


@contextmanager
def atomic_write(target: Path, *, unique: bool = False, flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` when the block ends without an error.

    After an error the temporary file is removed and ``target`` is as it was.

    Args:
        unique: give the temporary file a name of its own. Needed where several threads may write ``target``, or where
            its name is so long that nothing can be appended. Otherwise the name is fixed, so that what a killed process
            left behind is overwritten by the next write.
        flushed: False skips the flushes. Only for files that can be made again and whose readers notice a broken one:
            a flush takes milliseconds, too long for each of a million images.
    """
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp" if unique else f"{target.name}.tmp")
    try:
        yield temporary
        if flushed:
            move_into_place(temporary, target)
        else:
            rename(temporary, target)
    except BaseException:
        clear(temporary)
        raise


def atomic_write_bytes(
    target: Path, data: bytes | Iterable[bytes], *, unique: bool = False, flushed: bool = True
) -> None:
    """Write a file with `atomic_write`, and make its folder if it is missing.

    Args:
        data: the bytes, or an iterable of pieces that do not fit into memory together.
    """
    with atomic_write(target, unique=unique, flushed=flushed) as temporary:
        try:
            file = temporary.open("wb")
        except FileNotFoundError:  # checking beforehand would cost time, and most folders exist
            target.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb")
        with file:
            file.writelines([data] if isinstance(data, bytes) else data)


def atomic_write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file with `atomic_write`."""
    atomic_write_bytes(target, text.encode("utf-8"))


def move_into_place(temporary: Path, target: Path) -> None:
    """Flush a finished file, or a folder with all its files, then rename it to ``target``.

    A file replaces an existing ``target``. A folder can only take the place of an empty folder or of nothing.
    """
    for path in [*sorted(temporary.rglob("*")), temporary]:
        flush_folder(path) if path.is_dir() else flush(path)
    rename(temporary, target)
    flush_folder(target.parent)


def replace_folder(temporary: Path, target: Path, aside: Path) -> None:
    """Like `move_into_place` for a folder that may take the place of another one.

    Args:
        aside: a free name beside ``target``, for the old folder meanwhile. If a program keeps a file of that open, the
            rest of it stays there.

    Raises:
        OSError: the system refuses it. ``target`` is as it was.
    """
    remove_folder(aside)
    replaced = target.exists()
    if replaced:
        rename(target, aside)
    try:
        move_into_place(temporary, target)
    except BaseException:
        if replaced:
            rename(aside, target)
        raise
    clear(aside)


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows has no such call and does not need one."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FOLDERS:
            return
        raise
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, as ``sha256sum`` prints it.

    It is the fastest cryptographic hash here: processors since about 2018 have instructions for it.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths: Sequence[Path]) -> list[str]:
    """Checksums of several files, read in parallel. Raises OSError if one cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(checksum, paths))


class ChecksumPool:
    """Computes checksums of finished files and flushes them in the background, while the next files are written.

    with ChecksumPool() as pool:
        write(path); pool.add(path)
    pool.checksums()
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._pending: dict[Path, Future[str]] = {}

    def __enter__(self) -> ChecksumPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until everything that was added is done. ``checksums`` still works afterwards."""
        self._pool.shutdown(wait=True)

    def add(self, *paths: Path) -> None:
        """Add files, or folders with all their files. They must not change afterwards."""
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    self._pending[file] = self._pool.submit(seal, file)

    def checksums(self) -> dict[Path, str]:
        """Wait for all files and return their checksums. Raises OSError if the disk did not take one."""
        return {path: future.result() for path, future in self._pending.items()}


def seal(path: Path) -> str:
    found = checksum(path)
    flush(path)
    return found
