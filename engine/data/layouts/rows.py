"""Reads the rows of lists: JSON in its many forms, CSV in every dialect."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.disk.image_formats import is_image_name
from engine.disk.syntax import fault
from engine.disk.text import read_text

Row = tuple[int, Any]
"""Line number, counted from 1, and the content of the row, or a ValueError if it could not be read."""

_WRAPPERS = ("data", "images", "annotations", "items", "rows", "samples", "train", "entries", "dataset")
_SNIFF = 65_536  # characters
_MOST_BY_HAND = 32_000_000  # characters
_JSON5 = re.compile(
    r"""("(?:\\.|[^"\\\n])*+"|'(?:\\.|[^'\\\n])*+'|//[^\n]*+|/\*(?:.*?\*/|.*)|(?<![\w$-])(?P<name>[^\W\d][\w$-]*+)(?=\s*:))""",
    re.DOTALL,
)
"""A text in quotation marks, a comment, or the name of an entry without quotation marks."""


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a list, dictionaries in a good one. Lists with one object per line, and CSV, are not read at once.

    Raises OSError.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from csv_rows(path)
        return
    start = read_text(path, most=_SNIFF)
    lines = [line for line in start.text.split("\n")[:-1] if line.strip()] or [start.text]
    array = lines[0].lstrip("\ufeff \t").startswith("[")
    if not array and sum(isinstance(_value(line), dict) for line in lines) >= 0.5 * len(lines) and len(lines) > 1:
        with path.open(encoding=_codec(start.encoding), errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _value(line.lstrip("\ufeff"))
        return
    yield from _json_rows(read_text(path).text)


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows as dictionaries by the names in the first line, in lower case, of a file of any size."""
    with path.open("rb") as file:
        start = read_text(path, most=_SNIFF)
        file.seek(0)
        with io.TextIOWrapper(file, encoding=_codec(start.encoding), errors="replace", newline="") as text:
            yield from _parse_csv(text, start.text)


def _codec(encoding: str) -> str:
    """The codec. A mark in UTF-16, which need not be there, is taken off the first line."""
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _parse_csv(file: Any, start: str) -> Iterator[Row]:
    head, _, rest = start.partition("\n")
    delimiter = max(",;\t|", key=head.count)
    if said := re.fullmatch(r'"?sep=(.)"?', head.strip("\r")):  # Excel's way to name the delimiter
        delimiter, start = said[1], rest
        next(file, None)
    quote = "'" if _single_quoted(start, delimiter) else '"'
    reader = csv.reader(file, delimiter=delimiter, quotechar=quote, skipinitialspace=delimiter != "\t")
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:  # for example a quote that never ends
            yield reader.line_num, ValueError(fault(error))
            continue
        if cells is None:
            return
        cells = [cell.strip().replace("\0", "") for cell in cells]
        if names is None and any(cells):
            names = [name.lstrip("\ufeff").lower() or f"column {number}" for number, name in enumerate(cells, 1)]
            if not any(map(is_image_name, names)):
                continue
            names = [f"column {number}" for number in range(1, len(cells) + 1)]  # the first line is a row already
        if names is not None and any(cells):
            if len(cells) > len(names) > 1:  # a text with the delimiter in it, without quotes
                between = delimiter if delimiter in "\t|" else f"{delimiter} "
                cells = [*cells[: len(names) - 1], between.join(cells[len(names) - 1 :])]
            yield reader.line_num, dict(zip(names, cells, strict=False))


def _single_quoted(start: str, delimiter: str) -> bool:
    """Whether cells are quoted with ' rather than with "."""
    at_cell = rf"(?:^|{re.escape(delimiter)})'[^'\n]*'(?:{re.escape(delimiter)}|$)"
    return '"' not in start and bool(re.search(at_cell, start, re.MULTILINE))


def _json_rows(text: str) -> Iterator[Row]:
    """The rows of a whole JSON file: an array, objects one after the other over several lines, or one object a line."""
    whole = _value(text)
    if isinstance(whole, dict):
        whole = _coco(whole) or _by_column(whole) or _wrapped(whole)
    if isinstance(whole, list):
        yield from enumerate(_named(whole), 1)
        return
    objects = list(_one_after_the_other(text))
    if len(objects) > 1:
        yield from objects
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    values = [(number, _value(line)) for number, line in lines]
    if any(not isinstance(value, ValueError) for _, value in values):
        yield from values
    elif isinstance(whole, ValueError):
        yield 1, whole


def _wrapped(whole: dict[str, Any]) -> list[Any]:
    """The rows in {"data": [...]}, {"any name": [...]}, or {"some key": {...}, "other key": {...}}; else one row."""
    named = next((value for name in _WRAPPERS if isinstance(value := whole.get(name), list)), None)
    if named is not None:
        return named
    listed = [value for value in whole.values() if isinstance(value, list) and any(isinstance(v, dict) for v in value)]
    if listed:
        return max(listed, key=len)
    return list(whole.values()) if whole and all(isinstance(v, dict) for v in whole.values()) else [whole]


def _by_column(whole: dict[str, Any]) -> list[Any] | None:
    """The rows of {"image": [...], "text": [...]}, also with {"0": ..., "1": ...} for [...]. None: another form."""
    columns = {
        name: list(value.values()) if isinstance(value, dict) else value
        for name, value in whole.items()
        if isinstance(value, list) or (isinstance(value, dict) and list(value) == [str(n) for n in range(len(value))])
    }
    lengths = {len(values) for values in columns.values()}
    plain = all(not isinstance(one, dict | list) for values in columns.values() for one in values)
    if len(columns) < 2 or len(columns) < len(whole) or len(lengths) != 1 or not plain:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] or None


def _named(rows: list[Any]) -> list[Any]:
    """Rows that are arrays as dictionaries: by the names in the first one, or "column 1" and so on."""
    if not rows or not all(isinstance(row, list) and row for row in rows):
        return rows
    first = [str(cell) for cell in rows[0]]
    if any(map(is_image_name, first)):
        return [{f"column {number}": cell for number, cell in enumerate(row, 1)} for row in rows]
    return [dict(zip(first, row, strict=False)) for row in rows[1:]]


def _coco(whole: dict[str, Any]) -> list[Any] | None:
    """The images of annotations in COCO's form, each with its captions. None: it has another form."""
    images, notes = whole.get("images"), whole.get("annotations")
    if not (isinstance(images, list) and isinstance(notes, list)):
        return None
    captions: dict[str, list[str]] = {}
    for one in notes:
        if isinstance(one, dict) and isinstance(text := one.get("caption"), str):
            captions.setdefault(str(one.get("image_id")), []).append(text)
    return [
        {**image, **({"caption": found} if (found := captions.get(str(image.get("id")))) else {})}
        for image in images
        if isinstance(image, dict)
    ] or None


def _value(text: str) -> Any:
    """A JSON value, also with Windows' backslashes, or as Python and JavaScript write it; or the error."""
    text = text.strip().rstrip(",").strip()
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        first = error
    for repaired in (re.sub(r'\\(?!["\\/bfnrtu])', r"\\\\", text), re.sub(r",(\s*[}\]])", r"\1", text)):
        try:
            return json.loads(repaired, parse_constant=lambda name: None)
        except (ValueError, RecursionError):
            continue
    if text[:1] in "{[" and "'" in text and len(text) < 1_000_000:
        try:
            return ast.literal_eval(text)  # literals only: nothing is run
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            pass
    if text[:1] in "{[/" and len(text) < _MOST_BY_HAND:
        try:
            return json.loads(_as_json(text), parse_constant=lambda name: None)
        except (ValueError, RecursionError):
            pass
    return ValueError(fault(first, several_lines="\n" in text))


def _as_json(text: str) -> str:
    """JSON5 as JSON: without comments and trailing commas, with names and texts in double quotes."""

    def plain(found: re.Match[str]) -> str:
        part = found[0]
        if part.startswith(("//", "/*")):
            return " "
        if part.startswith("'"):
            return json.dumps(re.sub(r"\\(?=')", "", part[1:-1]))
        return part if part.startswith('"') or found["name"] is None else json.dumps(part)

    return re.sub(r",(\s*[}\]])", r"\1", _JSON5.sub(plain, text))


def _one_after_the_other(text: str) -> Iterator[Row]:
    """Objects that follow one another without brackets around them: pretty-printed, or all on one line."""
    decoder, place, line, counted = json.JSONDecoder(parse_constant=lambda name: None), 0, 1, 0
    while (start := text.find("{", place)) >= 0:
        line, counted = line + text.count("\n", counted, start), start
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        yield line, value
