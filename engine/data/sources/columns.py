"""Finds the columns of a table by their names. The page shows the choice, and the user can change it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.data.layouts.texts import caption_of
from engine.data.layouts.words import is_mask, role_of
from engine.errors import UserError

URLS = ("url", "image_url", "img_url", "top_level_url")
WIDTHS, HEIGHTS = ("width", "original_width"), ("height", "original_height")


def column(names: Iterable[str], wanted: Sequence[str], asked: str = "", what: str = "") -> str | None:
    """The column's name as spelled in the table. Ignores upper and lower case.

    Raises:
        UserError: the user named a column that does not exist.
    """
    present = {name.lower(): name for name in names}
    if asked:
        if asked.lower() in present:
            return present[asked.lower()]
        raise UserError(
            f"There is no column {asked}.",
            f"The table has these columns: {', '.join(present.values())}.",
            f"Choose one of these as the {what} column, or leave it empty.",
        )
    return next((present[name] for name in wanted if name in present), None)


def of_role(names: Iterable[str], role: str) -> str | None:
    """The first column whose name suggests a role (a map that is a mask counts last). None if there is none."""
    found = [name for name in names if role_of(name) == role]
    return min(found, key=is_mask, default=None)


def text(value: Any) -> str:
    """A caption from a cell, the first one if there are several."""
    if isinstance(value, str | list | tuple | dict):
        return caption_of(list(value) if isinstance(value, tuple) else value) or ""
    return "" if value is None else str(value)


def number(value: Any) -> float:
    """A width or height. 0 if it is unknown."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if 0 < found < 1e9 else 0.0


def describe_choice(image: str | None, caption: str | None, condition: str | None = None, kind: str = "images") -> str:
    """Tells the user which columns are used."""
    parts = [f"{kind} from the column {image}", f"captions from {caption}" if caption else "no caption column"]
    if condition:
        parts.append(f"condition maps from {condition}")
    return f"Used {', '.join(parts)}."
