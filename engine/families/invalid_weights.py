"""Recognizes files that should hold weights but do not: an empty file, a web page, half of a download. No torch."""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".aria2", ".incomplete")
_START = 512  # bytes
_LARGEST_HEADER = 100 << 20  # bytes; what safetensors itself allows
_KINDS = (
    (
        b"version https://git-lfs",
        "It is a Git LFS pointer: the weights themselves were not downloaded. Run git lfs pull in that folder, or "
        "download the file itself",
    ),
    (b"GGUF", "It is a GGUF file, whose weights are quantized for other programs"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b'{"error', b"access to model")


def why_invalid(path: Path) -> str:
    """A sentence without its full stop on what is wrong with a file of weights. "": nothing that a first look finds."""
    if path.suffix.lower() in UNFINISHED:
        return "It is an unfinished download"
    try:
        state = path.stat()
        return _look(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        return f"The system says: {error.strerror or error}"


@lru_cache(maxsize=64)
def _look(path: Path, size: int, changed: int) -> str:
    """Raises OSError. ``changed``: the file's time, so that a new one is looked at anew."""
    with path.open("rb") as file:
        start = file.read(_START)
        if not start:
            return "The file is empty"
        if words := next((words for mark, words in _KINDS if start.startswith(mark)), ""):
            return words
        if start.lstrip().lower().startswith(_PAGES):
            return "It is a web page: the download failed, or asked for a login"
        if path.suffix.lower() != ".safetensors":
            named = start[8:9] == b"{" and 2 <= _header(start) <= _LARGEST_HEADER
            words = f"It is a .safetensors file under another name: rename it to {path.stem}.safetensors"
            return words if named else ""
        if start.startswith(b"PK"):
            return "It is not a .safetensors file but an archive or a .ckpt under another name"
        file.seek(8)
        return _cut_off(start, file.read(min(_header(start), _LARGEST_HEADER)), size)


def _header(start: bytes) -> int:
    return int(struct.unpack("<Q", start[:8])[0]) if len(start) >= 8 else 0


def _cut_off(start: bytes, header: bytes, size: int) -> str:
    """What the header says of the file's size."""
    length = _header(start)
    if not 2 <= length <= _LARGEST_HEADER:
        return "It is damaged or not a .safetensors file: it does not begin like one"
    try:
        tensors: dict[str, Any] = json.loads(header) if len(header) == length else {"": {}}
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        wanted = size + 1
    return "The end of the file is missing: it was not downloaded or copied completely" if wanted > size else ""
