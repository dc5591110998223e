"""What is wrong with a JSON, TOML, YAML, CSV or parquet file, in plain words: the line, and the mistake."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path

_PARQUET = b"PAR1"
_NEAR = 30  # characters shown of the place of a mistake
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

# The start of what the reader says, and what it means.
_JSON = (
    ("Expecting property name", "a name in double quotes is expected here"),
    ("Illegal trailing comma", "there is a comma after the last entry"),
    ("Expecting ':'", "a colon is missing after a name"),
    ("Expecting ','", "a comma is missing between two entries, or a quotation mark in a text has no \\ before it"),
    ("Expecting value", "a value is expected here; text needs double quotes"),
    ("Extra data", "there is more text after the end of the first value"),
    ("Invalid control character", "a text contains a line break or a tab; write \\n or \\t in it"),
    ("Invalid \\", "a \\ has to be written twice"),
    ("Unterminated string", "the quotation mark at the end of a text is missing"),
)
_TOML = (
    ("Cannot declare", "this section appears twice"),
    ("Cannot overwrite", "this name already has a value"),
    ("Cannot mutate", "this name already has a value"),
    ("Duplicate", "this name appears twice"),
    ("Expected '='", "an = is missing after a name"),
    ("Expected ']", "a ] is missing"),
    ("Unclosed array", "a comma or a ] is missing in a list"),
    ("Unclosed inline table", "a comma or a } is missing"),
    ("Unescaped '\\", "a \\ has a special meaning in double quotes; use single quotes, or / in paths"),
    ("Invalid hex", "a \\ has a special meaning in double quotes; use single quotes, or / in paths"),
    ("Unterminated string", "the quotation mark at the end of a text is missing"),
    (
        "Illegal character",
        "a text is not closed in its line, or contains a character that is not allowed",
    ),
    (
        "Found invalid character",
        "a text is not closed in its line, or contains a character that is not allowed",
    ),
    ("Expected newline", "there is more text after the end of the value"),
    ("Invalid initial character", "a name is expected here"),
    ("Invalid statement", "this is neither a name = value nor a [section]"),
    (
        "Invalid value",
        "a value is expected here: text in quotes, a number (such as 0.5), true, false or a list",
    ),
    ("Invalid date", "this is not a valid date"),
    ("Expected", "a quotation mark or bracket is missing"),
)
_YAML = (
    ("found character '\\t'", "it is indented with a tab; YAML requires spaces"),
    ("found character '%'", "a text that begins with % needs quotes"),
    ("found character '@'", "a text that begins with @ needs quotes"),
    ("found character '`'", "a text that begins with ` needs quotes"),
    (
        "mapping values are not allowed",
        "there is one colon too many, or the line is indented differently from its neighbours",
    ),
    ("could not find expected ':'", "a colon is missing after a name"),
    ("found unknown escape", "a \\ has a special meaning in double quotes; use single quotes, or / in paths"),
    ("expected escape sequence", "a \\ has a special meaning in double quotes; use single quotes, or / in paths"),
    ("found unexpected end of stream", "the quotation mark at the end of a text is missing"),
    ("found undefined alias", "a text begins with *; put it in quotes"),
    ("could not determine a constructor", "it asks for a program's object to be created, which is not allowed"),
    ("expected <block end>", "the line is indented differently from its neighbours"),
    ("expected ',' or", "a comma or a closing bracket is missing"),
    ("special characters are not allowed", "it contains characters that are not text"),
)


def fault(error: Exception, text: str = "", several_lines: bool = True) -> str:
    """The mistake that an error of a reader stands for, as the end of "It is broken: ...", without a full stop.

    Args:
        error: of json, tomllib, yaml, csv, a codec, or a RecursionError.
        text: what was read, to show the place.
        several_lines: say in which line it is; False where the line is known.
    """
    if isinstance(error, json.JSONDecodeError):
        at_end = error.doc[error.pos :].strip() in ("", "{", "[")
        words = "it ends too early" if at_end else _meaning(error.msg, _JSON, "this is not JSON")
        return _placed(words, error.doc, error.lineno, error.colno, several_lines)
    if isinstance(error, tomllib.TOMLDecodeError):
        found = _AT.search(str(error))
        words = _meaning(str(error), _TOML, "this is not TOML")
        if found is None or found[1] is None:
            return words if found is None else f"{words} (at the end)"
        return _placed(words, text, int(found[1]), int(found[2]), several_lines)
    if isinstance(error, RecursionError):
        return "its entries are nested too deeply"
    if isinstance(error, csv.Error):
        return (
            "a cell has a quotation mark at its beginning but not at its end"
            if "limit" in str(error)
            else "it is not CSV"
        )
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"line {line} contains bytes that are not {error.encoding.upper()} text"
    return _of_yaml(error, text, several_lines)


def parquet_fault(path: Path) -> str:
    """Why a parquet file cannot be read, as a sentence. Such files begin and end with the letters PAR1."""
    try:
        with path.open("rb") as file:
            head, size = file.read(4), file.seek(0, 2)
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except OSError as error:
        return f"The system says: {error.strerror or error}."
    if not size:
        return "The file is empty (zero bytes)."
    if head != _PARQUET:
        return "It does not begin like a parquet file: it is a different kind of file, whatever its name says."
    if tail != _PARQUET:
        return "Its end is missing: it was not downloaded or copied completely."
    return "It is damaged inside."


def _of_yaml(error: Exception, text: str, several_lines: bool) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
    words = _meaning(problem, _YAML, "this is not YAML")
    return _placed(words, text, mark.line + 1, mark.column + 1, several_lines) if mark is not None else words


def _meaning(said: str, meanings: tuple[tuple[str, str], ...], otherwise: str) -> str:
    return next((words for start, words in meanings if said.startswith(start)), otherwise)


def _placed(words: str, text: str, line: int, column: int, several_lines: bool) -> str:
    """The mistake with its line, and what stands there."""
    lines = text.split("\n")
    whole = lines[line - 1] if 0 < line <= len(lines) else ""
    near = whole[max(0, column - 1) :].strip() or whole.strip()
    shown = f" (at {near[:_NEAR].strip()}{' …' if len(near) > _NEAR else ''})" if near else ""
    return f"{f'in line {line} ' if several_lines else ''}{words}{shown}"
