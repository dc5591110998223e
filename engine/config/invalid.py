"""What is wrong with settings, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from engine.errors import did_you_mean

_BOUNDS = {
    "greater_than_equal": ("has to be at least", "ge"),
    "less_than_equal": ("has to be at most", "le"),
    "greater_than": ("has to be more than", "gt"),
    "less_than": ("has to be less than", "lt"),
    "string_too_long": ("may have at most this many characters:", "max_length"),
    "string_too_short": ("needs at least this many characters:", "min_length"),
    "multiple_of": ("has to be a multiple of", "multiple_of"),
    "literal_error": ("has to be one of", "expected"),
}
"""Pydantic's name of a fault -> words, and the entry of its context that follows them."""
_KINDS = {
    "int": "has to be a whole number",
    "float": "has to be a number",
    "finite": "has to be a finite number",
    "bool": "has to be true or false",
    "string": "has to be text",
    "dict": "has to be a section with settings in it",
    "model": "has to be a section with settings in it",
}
"""The same for values of a wrong kind, by the first word of the fault's name."""
_LONGEST = 60  # characters of a value that are shown


def describe(error: ValidationError, known: Sequence[str] = ()) -> str:
    """All problems of a validation error, one sentence each.

    A problem of one setting starts with its dotted name; one that lies between settings names them itself.

    Args:
        known: dotted names of all settings, of which the nearest is offered in place of one that is not known.
    """
    return " ".join(_sentence(problem, known) for problem in error.errors())


def _sentence(problem: Any, known: Sequence[str]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a setting. {did_you_mean(where, known)}".strip()
    if not where:
        return f"{message[:1].upper()}{message[1:]}."
    kind, given = problem["type"], _shown(problem["input"])
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        message = f"{where} {words} {_number(problem['ctx'][name])}"
    elif (kind_of := kind.split("_")[0]) in _KINDS:
        message = f"{where} {_KINDS[kind_of]}"
    else:
        message = f"{where}: {message[:1].lower()}{message[1:]}"
    return f"{message}; {given} was given." if given else f"{message}."


def _number(value: Any) -> str:
    return f"{value:,.12g}" if isinstance(value, int | float) else str(value)


def _shown(value: Any) -> str:
    """A value as the user wrote it. Empty for several values, such as a section: its settings are named."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if not isinstance(value, str):
        return ""
    return f'"{value}"' if len(value) <= _LONGEST else f'"{value[:_LONGEST]}…"'
