"""Lists that dataset configs name: kohya's metadata, musubi-tuner's JSON lines, SimpleTuner's tables of captions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.data.layouts.rows import rows_of
from engine.data.layouts.texts import caption_of
from engine.disk.image_formats import is_image_name
from engine.disk.syntax import parquet_fault
from engine.errors import UserError

_CAPTIONS = ("caption", "tags")
_LOOKED_AT = 50
MAP_KEYS = ("control_path", "control_path_0", "control_path_0000")


@dataclass(frozen=True)
class Entry:
    """One image in a list. Names are paths as written, perhaps without an extension."""

    name: str
    caption: str
    map: str = ""


def kohya_metadata(content: Any) -> tuple[Entry, ...] | None:
    """The entries of {image: {caption, tags}}. None if it is something else. Tags follow the caption."""
    if not isinstance(content, dict) or not content:
        return None
    few = list(islice(content.items(), _LOOKED_AT))
    fits = sum(
        (isinstance(value, dict) and any(key in value for key in _CAPTIONS))
        or (isinstance(value, str) and is_image_name(str(name)))
        for name, value in few
    )
    if fits < 0.5 * len(few):
        return None
    return tuple(Entry(str(name), _caption(value)) for name, value in content.items())


def _caption(value: Any) -> str:
    if not isinstance(value, dict):
        return value.strip() if isinstance(value, str) else ""
    found = [caption_of(value.get("caption")) or "", _tags(value.get("tags"))]
    return ", ".join(text for text in found if text)


def _tags(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else value.strip() if isinstance(value, str) else ""


def rows_of_jsonl(path: Path) -> Iterator[Entry]:
    """The rows with an image_path. Raises UserError if there is none."""
    some = False
    try:
        for _, row in rows_of(path):
            name = row.get("image_path") or row.get("image_path_0") if isinstance(row, dict) else None
            if isinstance(name, str):
                some = True
                map = next((value for key in MAP_KEYS if isinstance(value := row.get(key), str)), "")
                yield Entry(name, caption_of(row.get("caption")) or "", map)
    except OSError as error:
        raise _unreadable(path, f"The system says: {error.strerror or error}.") from error
    if not some:
        raise _unreadable(path, "None of its lines is an object with an image_path.")


def rows_of_table(path: Path, name: str, caption: str) -> Iterator[Entry]:
    """The names and captions of a parquet file or of JSON lines. Raises UserError if it has no such columns."""
    try:
        rows = (
            _parquet(path, [name, caption]) if path.suffix.lower() == ".parquet" else (row for _, row in rows_of(path))
        )
        for row in rows:
            if isinstance(row, dict) and row.get(name):
                yield Entry(os.fspath(str(row[name])), caption_of(row.get(caption)) or "")
    except (OSError, ValueError, KeyError) as error:
        wanted = f"Its columns should be {name} and {caption}."
        why = f"{parquet_fault(path)} {wanted}" if path.suffix.lower() == ".parquet" else wanted
        raise _unreadable(path, why) from error


def _parquet(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            "The package pyarrow is not installed.",
            f"It is needed to read {path.name}.",
            "Run install.sh or install.bat again, or: python -m pip install pyarrow",
        ) from error
    for batch in parquet.ParquetFile(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"{path.name}, a list named in the config, cannot be used.", why, "Correct the list.")
