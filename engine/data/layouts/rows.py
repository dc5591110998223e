"""Reads lists of images, whose rows name an image, a caption and perhaps a condition map."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.layouts.model import FoundImage, image_without_map, key
from engine.data.samples import Problem

CAPTION_COLUMNS = ("text", "caption", "prompt")
Row = tuple[int, Any]
"""Line number, counted from 1, and the content of the row, or a ValueError if it could not be read."""


@dataclass(frozen=True)
class Form:
    """The format of a list. Columns are tried in order, since other lists use some of the names for other things."""

    written_as: str
    """Name of the format, for messages."""
    read: Callable[[Path], Iterator[Row]]
    images: tuple[str, ...]
    conditions: tuple[str, ...]


def json_rows(path: Path) -> Iterator[Row]:
    """One JSON object per line. Skips empty lines. Also reads a file that is one JSON array."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while (start := file.read(1)).isspace():
            pass
        file.seek(0)
        if start == "[":
            try:
                yield from enumerate(json.load(file), 1)
            except ValueError as error:
                yield 1, error
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    yield number, error


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows as dictionaries by the names in the first line, in lower case. Separated by comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=head.count))
        names: list[str] | None = None
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:  # for example a quote that never ends
                yield reader.line_num, ValueError(str(error))
                continue
            if cells is None:
                return
            if names is None:
                names = [name.strip().lower() for name in cells]
            elif any(cells):
                yield reader.line_num, dict(zip(names, cells, strict=False))


def from_listing(folder: Path, listing: Path, form: Form, problems: list[Problem]) -> list[FoundImage]:
    """The images of a list. They must lie in ``folder``, which the user chose. Names are relative to the list.

    If two rows name the same image, the later one counts.
    """
    found: dict[str, FoundImage] = {}
    place = listing.parent
    for number, row in form.read(listing):
        try:
            if isinstance(row, ValueError):
                raise row
            name = _first(row, form.images)
            if not name:
                raise KeyError(form.images[0])
            image = key(_path(place, name).resolve(), folder.resolve())
            condition = _first(row, form.conditions)
            map = _path(place, condition) if condition else None
            caption = _text(_first(row, CAPTION_COLUMNS))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            problems.append(
                Problem(
                    listing,
                    f"Line {number} of {listing.name} cannot be used.",
                    f"It needs a {form.images[0]} inside the folder, in the format {form.written_as} "
                    f"({type(error).__name__}: {error}).",
                    "Correct the line.",
                )
            )
            continue
        found[image] = FoundImage(image, folder / image, caption or None, map, _source(row))
    return _all_or_none(found, listing, problems)


def _first(row: Any, columns: tuple[str, ...]) -> Any:
    """The first column with a value. Raises AttributeError if the row is not a dictionary."""
    return next((value for name in columns if (value := row.get(name))), None)


def _source(row: Any) -> str:
    address = row.get("url")
    return address if isinstance(address, str) else ""


def _path(place: Path, name: str) -> Path:
    """The path of a name. Lists made on Windows may have backslashes."""
    path = place / name
    return path if "\\" not in name or path.exists() else place / name.replace("\\", "/")


def _text(caption: Any) -> str:
    """A caption, the first one if there are several."""
    return str(caption[0] if isinstance(caption, list) else caption or "").strip()


def _all_or_none(found: dict[str, FoundImage], listing: Path, problems: list[Problem]) -> list[FoundImage]:
    """If some rows name a map, the rows that name none become problems."""
    without = [item for item in found.values() if item.condition is None]
    if len(without) == len(found):
        return without
    for item in without:
        del found[item.key]
        problems.append(
            image_without_map(
                item.image,
                f"Its line in {listing.name} names no conditioning image, but other lines do.",
                "Name its conditioning image in the line.",
            )
        )
    return list(found.values())
