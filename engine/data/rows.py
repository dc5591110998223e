"""Rows of a tensor in a safetensors file, read when they are asked for.

Read, not mapped into memory: the system ends a process without a word (SIGBUS) that touches a mapped file whose disk
was unplugged or fails, or which another program has cut short. A read fails with an OSError, which can be told. It also
keeps no file open: a cache of 100,000 images has hundreds. The slices of the safetensors package are mapped, and
those of 0.8.0 lose two integers for every row that is read, 64 bytes each: 200 MB over a run of a million images.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"F16": np.float16, "F32": np.float32, "U8": np.uint8, "I32": np.int32}
_LENGTH = 8  # bytes that tell how long the header is; format: huggingface/safetensors, README


class Damaged(OSError):
    """A file that is there is not what was written."""


def header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Facts of each tensor of a file, and where their bytes begin.

    Raises:
        OSError: it cannot be read. Damaged: it is no such file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            about = json.loads(file.read(length))
        return {name: facts for name, facts in about.items() if name != "__metadata__"}, _LENGTH + length
    except (ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise Damaged(errno.EIO, f"the file is damaged ({type(error).__name__})", str(path)) from error


def names_in(path: Path) -> list[str]:
    """Names of a file's tensors."""
    return sorted(header(path)[0])


class Rows:
    """One tensor of a file.

    Raises:
        OSError: the file cannot be read. Damaged: it is not what it was.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        tensors, begin = header(path)
        try:
            about = tensors[name]
            self.shape = tuple(int(side) for side in about["shape"])
            self._kind = np.dtype(KINDS[about["dtype"]])
            self._begin = begin + int(about["data_offsets"][0])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(errno.EIO, f"the file is damaged ({type(error).__name__})", str(path)) from error
        self._bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self._kind.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, places: Sequence[int]) -> np.ndarray:
        """The rows at ``places``, in that order: (len(places), *shape[1:]) of the file's kind, in memory of its own."""
        found = np.empty((len(places), *self.shape[1:]), self._kind)
        with self._path.open("rb") as file:
            for number, place in enumerate(places):
                if not 0 <= place < len(self):
                    raise IndexError(place)
                file.seek(self._begin + place * self._bytes)
                if file.readinto(found[number].reshape(-1).view(np.uint8)) != self._bytes:
                    raise Damaged(errno.EIO, "the end of the file is missing", str(self._path))
        return found
