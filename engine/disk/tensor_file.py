"""safetensors files read without torch: the header, and single rows of a tensor.

Rows are read, not mapped into memory. The system kills a process (SIGBUS) that touches a mapped file whose disk was
unplugged or fails, or which another program has cut short; a read fails with an OSError, which can be handled. No file
stays open either: a cache of 100,000 images has hundreds. The slices of the safetensors package are mapped, and those
of 0.8.0 leak two integers for every row that is read, 64 bytes each: 200 MB over a run of a million images.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"F16": np.float16, "F32": np.float32, "U8": np.uint8, "I8": np.int8, "I32": np.int32}
MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_METADATA = "__metadata__"
_LENGTH = 8  # bytes at the start that hold the header's length; format: huggingface/safetensors, README


class DamagedFile(OSError):
    """A file exists but is not what was written."""


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The entry of each tensor ("dtype", "shape", "data_offsets") by name, and the offset at which their data begin.

    Raises:
        OSError: the file cannot be read. DamagedFile: it is no whole safetensors file.
    """
    entries, begin = _whole_header(path)
    return {name: entry for name, entry in entries.items() if name != _METADATA}, begin


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself beside its tensors.

    Raises:
        OSError: the file cannot be read. DamagedFile: it is no whole safetensors file.
    """
    found: Any = _whole_header(path)[0].get(_METADATA)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _whole_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if length > min(path.stat().st_size, MAX_HEADER):
                raise ValueError(f"its header is said to be {length:,} bytes long")
            entries = json.loads(file.read(length))
        return dict(entries.items()), _LENGTH + length
    except (ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error


def tensor_names(path: Path) -> list[str]:
    """Names of a file's tensors, sorted."""
    return sorted(read_header(path)[0])


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of a file's tensors by name.

    Raises:
        OSError: the file cannot be read. DamagedFile: it is no whole safetensors file.
    """
    try:
        return {name: [int(side) for side in entry["shape"]] for name, entry in read_header(path)[0].items()}
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error


class Rows:
    """One tensor of a file.

    Raises:
        OSError: the file cannot be read. DamagedFile: it is not what was written.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        entries, begin = read_header(path)
        try:
            entry = entries[name]
            self.shape = tuple(int(side) for side in entry["shape"])
            self._kind = np.dtype(KINDS[entry["dtype"]])
            self._begin = begin + int(entry["data_offsets"][0])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _damaged(path, error) from error
        self._bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self._kind.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, places: Sequence[int]) -> np.ndarray:
        """The rows at ``places`` in that order, as a new array (len(places), *shape[1:]) of the file's dtype."""
        found = np.empty((len(places), *self.shape[1:]), self._kind)
        with self._path.open("rb") as file:
            for number, place in enumerate(places):
                if not 0 <= place < len(self):
                    raise IndexError(place)
                file.seek(self._begin + place * self._bytes)
                if file.readinto(found[number].reshape(-1).view(np.uint8)) != self._bytes:
                    raise DamagedFile(errno.EIO, "the end of the file is missing", str(self._path))
        return found


def _damaged(path: Path, error: Exception) -> DamagedFile:
    return DamagedFile(errno.EIO, f"the file is damaged ({type(error).__name__}: {error})"[:300], str(path))
