"""One tensor of a safetensors file, mapped into memory and read row by row, as every step of a training does.

The package's own slices lose two integers for every row that is read (safetensors 0.8.0): 64 bytes each, which over a
run of a million pictures is 200 MB. Format: eight bytes with the length of a JSON header, the header with type, shape
and place of each tensor, the data.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
"""Those that the training cache is written in."""


def map_rows(path: Path, name: str) -> np.ndarray:
    """The tensor ``name``, not to be written to; nothing is read before a row is asked for.

    Raises:
        OSError: the file cannot be read. ValueError, KeyError: it is damaged, or holds no such tensor.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    first = about["data_offsets"][0]
    kind, shape = TYPES[about["dtype"]], tuple(about["shape"])
    return np.memmap(path, kind, "r", 8 + length + first, shape)
