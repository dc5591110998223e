"""What the columns of a list hold, by their names and by a sample of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.data.layouts.named_files import name_in
from engine.data.layouts.texts import caption_of
from engine.data.layouts.words import (
    CAPTION,
    CAPTION_COLUMNS,
    IGNORED,
    IMAGE,
    IMAGE_COLUMNS,
    MAP,
    MAP_COLUMNS,
    WEIGHT,
    WEIGHT_COLUMNS,
    is_clear_map,
    is_mask,
    role_of,
)
from engine.data.samples import MOST_WEIGHT
from engine.disk.image_formats import is_image_name

SAMPLE = 50
"""Number of rows that are examined."""


@dataclass(frozen=True)
class Column:
    """A column, and what a sample of its values shows."""

    name: str
    files: float
    """Fraction of its values that name an image file that exists."""
    named: float
    """Fraction of its values that look like the name of an image file."""
    words: float
    """Mean number of words of its values."""
    count: int
    examples: tuple[str, ...]


def columns_of(rows: Sequence[Mapping[str, Any]], exists: Callable[[str], bool]) -> dict[str, Column]:
    """The columns of a sample of rows, by their names as written."""
    found = {}
    for name in dict.fromkeys(str(name) for row in rows for name in row):
        values = [value for row in rows if (value := row.get(name)) not in (None, "", [])]
        texts = [text for value in values if (text := _text_in(value))]
        found[name] = Column(
            name=name,
            files=sum(map(exists, texts)) / max(1, len(values)),
            named=sum(is_image_name(text.split("?")[0]) and "://" not in text for text in texts) / max(1, len(values)),
            words=sum(len(text.split()) for text in texts) / max(1, len(texts)),
            count=len(values),
            examples=tuple(str(value)[:80] for value in values[:3]),
        )
    return found


def _text_in(value: Any) -> str | None:
    """The text or the name of a file in a cell."""
    if isinstance(named := name_in(value), str):
        return named.strip()
    return caption_of(value)


def roles_of(
    columns: Mapping[str, Column], asked: Mapping[str, str], image_names: Sequence[str] = IMAGE_COLUMNS
) -> tuple[dict[str, str], list[str]]:
    """The role of each column, and why the user should look at them, as sentences.

    ``image_names``: usual names of the column with the images, the most likely first.
    """
    given = {name: asked[name] for name in columns if name in asked}
    image = (
        _given(given, IMAGE) or _first(columns, image_names, given, _may_name_an_image) or _by_content(columns, given)
    )
    taken = {*given, *([image] if image else [])}
    map = _given(given, MAP) or _first(columns, MAP_COLUMNS, taken, _names_files) or _other_map(columns, taken)
    taken |= {map} if map else set()
    weight = _given(given, WEIGHT) or _first(columns, WEIGHT_COLUMNS, taken, _has_values)
    taken |= {weight} if weight else set()
    caption = _given(given, CAPTION) or _first(columns, CAPTION_COLUMNS, taken, _has_text)
    doubts = []
    if not caption:
        named = [
            name for name in columns if name not in taken and role_of(name) == CAPTION and _has_text(columns[name])
        ]
        texts = [name for name in columns if name not in taken and _has_words(columns[name])]
        if not texts and len(columns) == 2:  # an image's name, and one other thing
            texts = [name for name in columns if name not in taken and _may_be_text(columns[name])]
        caption = next(iter(named), None) or (texts[0] if len(texts) == 1 else None)
        if caption and not named:
            doubts.append(f"The column {caption} was used for the captions.")
        elif texts and not caption:
            doubts.append(f"No column is named as captions usually are, but these contain texts: {', '.join(texts)}.")
    if map and map not in given and not is_clear_map(map):
        doubts.append(f"The column {map} was used for the condition maps.")
    roles = dict.fromkeys(columns, IGNORED)
    for name, role in ((image, IMAGE), (map, MAP), (caption, CAPTION), (weight, WEIGHT)):
        if name:
            roles[name] = role
    roles |= {name: role for name, role in given.items() if role == IGNORED}
    left = [name for name in columns if roles[name] == IGNORED and name not in given and columns[name].files > 0.5]
    if left:
        doubts.append(f"Other columns also name images: {', '.join(left)}.")
    return roles, doubts


class NoWeight(ValueError):
    """The text of a cell that should be a loss weight."""


def weight_in(value: Any) -> float:
    """The loss weight in a cell, 1 for an empty one. Raises NoWeight."""
    if value is None or value == "":
        return 1.0
    try:
        weight = float(str(value).strip().replace(",", "."))
    except ValueError as error:
        raise NoWeight(value) from error
    if not 0 <= weight <= MOST_WEIGHT:  # NaN is neither
        raise NoWeight(value)
    return weight


def _given(given: Mapping[str, str], role: str) -> str | None:
    return next((name for name, asked in given.items() if asked == role), None)


def _first(
    columns: Mapping[str, Column], names: Sequence[str], taken: Any, fits: Callable[[Column], bool]
) -> str | None:
    """The first of these names that is a column which fits."""
    present = {name.lower(): name for name in columns}
    return next(
        (
            present[name]
            for name in names
            if name in present and present[name] not in taken and fits(columns[present[name]])
        ),
        None,
    )


def _may_name_an_image(column: Column) -> bool:
    return column.named >= 0.3 or column.files > 0


def _names_files(column: Column) -> bool:
    return column.named >= 0.3 or column.files >= 0.3


def _has_values(column: Column) -> bool:
    return column.count > 0


def _has_text(column: Column) -> bool:
    return column.words > 0 and column.files < 0.5 and column.named < 0.5


def _has_words(column: Column) -> bool:
    unlike = role_of(column.name) in (IMAGE, MAP) or "url" in column.name.lower()
    return column.words >= 2 and column.files < 0.1 and column.named < 0.1 and not unlike


def _may_be_text(column: Column) -> bool:
    numbers = all(example.replace(".", "", 1).isdecimal() for example in column.examples)
    return _has_text(column) and not numbers and "url" not in column.name.lower()


def _role(column: Column) -> str:
    """The role that a column's name suggests or, for "column 2" and the like, the folders in its values."""
    if role := role_of(column.name):
        return role
    folders = [PurePosixPath(example.replace("\\", "/")).parent.as_posix() for example in column.examples]
    roles = {role_of(folder) for folder in folders}
    return roles.pop() if len(roles) == 1 else ""


def _by_content(columns: Mapping[str, Column], taken: Any) -> str | None:
    """The column whose values are image files; of several, one that is called images, and none that is called maps."""
    files = [column for column in columns.values() if column.name not in taken and column.files >= 0.5]
    ranked = sorted(files, key=lambda column: (_role(column) == MAP, _role(column) != IMAGE))
    return ranked[0].name if ranked else None


def _other_map(columns: Mapping[str, Column], taken: Any) -> str | None:
    """A column whose values are image files and whose name is that of a map; a mask only if there is nothing else."""
    files = [
        column
        for column in columns.values()
        if column.name not in taken and column.files >= 0.5 and _role(column) == MAP
    ]
    ranked = sorted(files, key=lambda column: is_mask(column.name))
    return ranked[0].name if ranked else None
