"""What all archives share: which names stay inside the folder, and writing a member once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from engine.data.layouts.inventory import LISTS, TEXTS, is_hidden
from engine.disk.durable import atomic_write, atomic_write_bytes
from engine.workspace.paths import RESERVED

NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL)
"""Of names that this system does not support."""
LIST_BYTES = 500_000_000
_PIECE = 1 << 20


def safe_path(name: str) -> PurePosixPath | None:
    """The path of a member inside the folder. None for a name that leads elsewhere, or is hidden."""
    name = name.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts:
        return None
    for word in path.parts:
        if word == ".." or ":" in word or "\0" in word or word != word.rstrip(" .") and word != ".":
            return None  # drives, streams, and names that Windows would shorten
        if word.split(".")[0].lower() in RESERVED or word.startswith(".") and word != ".":
            return None
    return path


def is_there(target: Path, size: int) -> bool:
    """Whether an earlier attempt has written this file. A link is none that it wrote."""
    return target.is_file() and not target.is_symlink() and target.stat().st_size == size


def write_new(source: IO[bytes], target: Path) -> int:
    """Write a member; return its size in bytes. Never overwrites a link or writes through one.

    Raises:
        OSError: of ``NAME_ERRORS``, for its name; another one, if the disk cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, unique=True, flushed=False) as temporary:
        with temporary.open("xb") as file:
            while piece := source.read(_PIECE):
                file.write(piece)
        return temporary.stat().st_size


def copy_lists(place: Path, archives: Sequence[Path], folder: Path) -> list[Path]:
    """Copy the lists and texts beside archives, which name or describe their images. Return what was copied.

    ``place``: the folder that was chosen; the archives may lie in its folders. Of two with one name the first counts.
    """
    copied: dict[str, Path] = {}
    for beside in dict.fromkeys([place, *(path.parent for path in archives)]):
        for path in sorted(beside.iterdir()):
            wanted = path.suffix.lower() in LISTS | TEXTS and not is_hidden(path.name) and path.name not in copied
            if wanted and path.is_file() and path.stat().st_size <= LIST_BYTES:
                atomic_write_bytes(folder / path.name, path.read_bytes())
                copied[path.name] = path
    return list(copied.values())
