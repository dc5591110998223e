"""Reads the rows of lists: JSON in every form that people write, CSV in every dialect."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.disk.text import read_text

Row = tuple[int, Any]
"""Line number, counted from 1, and the content of the row, or a ValueError if it could not be read."""

_WRAPPERS = ("data", "images", "annotations", "items", "rows", "samples", "train", "entries", "dataset")
_SNIFF = 65_536  # characters


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a list, dictionaries in a good one. Lists with one object per line, and CSV, are not read at once.

    Raises OSError.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        yield from csv_rows(path)
        return
    start = read_text(path, most=_SNIFF)
    lines = [line for line in start.text.split("\n")[:-1] if line.strip()] or [start.text]
    if sum(isinstance(_value(line), dict) for line in lines) >= 0.5 * len(lines) and len(lines) > 1:
        with path.open(encoding=_codec(start.encoding), errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _value(line)
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
    """The codec that also skips a byte order mark."""
    return {"utf-8": "utf-8-sig", "utf-16-le": "utf-16", "utf-16-be": "utf-16"}.get(encoding, encoding)


def _parse_csv(file: Any, start: str) -> Iterator[Row]:
    head = start.split("\n", 1)[0]
    delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(file, delimiter=delimiter, quotechar="'" if _single_quoted(start, delimiter) else '"')
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
            names = [name.strip().lstrip("\ufeff").lower() for name in cells]
        elif any(cells):
            yield reader.line_num, dict(zip(names, cells, strict=False))


def _single_quoted(start: str, delimiter: str) -> bool:
    """Whether cells are quoted with ' rather than with "."""
    at_cell = rf"(?:^|{re.escape(delimiter)})'[^'\n]*'(?:{re.escape(delimiter)}|$)"
    return '"' not in start and bool(re.search(at_cell, start, re.MULTILINE))


def _json_rows(text: str) -> Iterator[Row]:
    """The rows of a whole JSON file: an array, objects one after the other over several lines, or one object a line."""
    whole = _value(text)
    if isinstance(whole, dict):  # {"data": [...]}
        whole = next((value for name in _WRAPPERS if isinstance(value := whole.get(name), list)), [whole])
    if isinstance(whole, list):
        yield from enumerate(whole, 1)
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


def _value(text: str) -> Any:
    """A JSON value, also with a comma at its end, single quotes, or Windows' backslashes; or the error."""
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
    return ValueError(str(first))


def _one_after_the_other(text: str) -> Iterator[Row]:
    """Objects that follow one another without brackets around them: pretty-printed, or all on one line."""
    decoder, place = json.JSONDecoder(parse_constant=lambda name: None), 0
    while (start := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        yield text.count("\n", 0, start) + 1, value
