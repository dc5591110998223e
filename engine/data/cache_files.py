"""Files of the training cache. Their description with checksums is written last, and verified before they are used."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from engine.disk.durable import atomic_write, atomic_write_text, checksum, checksums
from engine.disk.in_use import remove_file
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.errors import as_os_error

NOTE = "verified.json"
AGAIN_SECONDS = 30 * 24 * 3600.0
AGAIN_BYTES = 4 * 2**30
"""Files that were compared once are compared again after this time, but no more bytes than these at one start."""


class Verified:
    """Which files of a folder were compared with their checksums, so that a start does not read a whole large cache.

    A file that has changed since, by its size or time, was not. The note is in the folder; without it all are compared.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOTE
        self._left = AGAIN_BYTES
        try:
            self._entries: dict[str, list[Any]] = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._entries = {}  # none yet, or damaged

    def holds(self, path: Path, known: str) -> bool:
        """Whether a file was compared with this checksum, not too long ago, and is unchanged."""
        entry, state = self._entries.get(path.name), path.stat()
        if not isinstance(entry, list) or entry[:3] != [known, state.st_size, state.st_mtime_ns]:
            return False
        if 0 <= time.time() - entry[3] < AGAIN_SECONDS or self._left < state.st_size:
            return True
        self._left -= state.st_size
        return False

    def add(self, path: Path, known: str, state: os.stat_result) -> None:
        """Note a file's checksum. ``state``: the file's size and date from before it was read."""
        self._entries[path.name] = [known, state.st_size, state.st_mtime_ns, time.time()]

    def save(self) -> None:
        """Write the note, without files that are gone. If the disk does not take it, all are compared again."""
        self._entries = {name: entry for name, entry in self._entries.items() if (self._path.parent / name).exists()}
        with contextlib.suppress(OSError):
            atomic_write_text(self._path, json.dumps(self._entries))


def verify(description: Path, token: CancelToken, progress: OnProgress, verified: Verified | None = None) -> bool:
    """Whether the files of a part of the cache match their checksums. Removes those that do not, to be made again.

    Caches of older versions have no checksums and are not verified.

    Args:
        verified: for several parts of a folder; the caller saves it. None: this part's own.
    """
    try:
        about = json.loads(description.read_text(encoding="utf-8"))
        sums = {str(name): str(known) for name, known in dict(about.get("checksums", {})).items()}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, AttributeError):
        remove_file(description)
        return False
    seen = Verified(description.parent) if verified is None else verified
    broken = []
    try:
        for done, (name, known) in enumerate(sums.items()):
            token.raise_if_cancelled()
            progress(done, len(sums), "Checking the cache")
            path = description.parent / name
            if path.is_file() and seen.holds(path, known):
                continue
            state = path.stat() if path.is_file() else None
            if state is None or checksum(path) != known:
                broken.append(path)
            else:
                seen.add(path, known, state)
    finally:
        if verified is None:
            seen.save()
    for path in broken:
        remove_file(path)
    if broken:
        remove_file(description)
    return not broken


def describe(path: Path, about: dict[str, Any], files: Sequence[Path]) -> None:
    """Writes the description of a part with the checksums of its files. Call it last."""
    about["checksums"] = {file.name: known for file, known in zip(files, checksums(files), strict=True)}
    atomic_write_text(path, json.dumps(about, ensure_ascii=False))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a file atomically. Raises OSError if the disk is full; nothing is left behind."""
    try:
        with atomic_write(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    except SafetensorError as error:
        raise as_os_error(error) from error
