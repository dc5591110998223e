"""Pasted and typed paths: with quotation marks, invisible characters, file://, variables, Windows' long form."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

_QUOTES = "\"'`“”„‘’«»"
_LONG_FORM = re.compile(r"^\\\\\?\\(UNC\\)?")
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_WINDOWS_VARIABLE = re.compile(r"%([A-Za-z_()0-9]+)%")


def typed_path(text: str | os.PathLike[str]) -> str:
    """Turn a typed or pasted path into a usable one. Names that are no paths, such as Hugging Face ids, stay.

    Takes off quotation marks, blanks and invisible marks around it, file:// and Windows' long form in front of it, and
    fills in ``~`` and environment variables. The text itself counts if it names something that exists, also
    if it begins or ends with blanks, unless something of the name without them exists, too.
    """
    given = os.fspath(text)
    if given.strip() and _exists(given) and not (given != given.strip() and _exists(given.strip())):
        return given
    bare = "".join(letter for letter in given if unicodedata.category(letter) not in ("Cf", "Cc"))
    bare = bare.replace("\u00a0", " ").strip()
    while len(bare) >= 2 and bare[0] in _QUOTES and bare[-1] in _QUOTES:
        inner = bare[1:-1]
        bare = inner if _exists(inner) and not _exists(inner.strip()) else inner.strip()
    if bare.lower().startswith("file:") and (parts := _address(bare)) is not None:
        host = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
        bare = url2pathname(host + parts.path)
    if _OF_WINDOWS.match(bare):
        bare = bare.rstrip('"')  # a command line that ends in \\" gives the program a quotation mark
    bare = _LONG_FORM.sub(lambda match: "\\\\" if match[1] else "", bare)
    if "$" in bare or "%" in bare:
        filled = _WINDOWS_VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), os.path.expandvars(bare))
        bare = bare if _exists(bare) else filled
    if bare.startswith("~"):
        bare = os.path.expanduser(bare)  # noqa: PTH111 - Path's raises an error for unknown users
    return bare if not bare or _exists(bare) else next(filter(_exists, _other_forms(bare)), bare)


def _address(text: str) -> SplitResult | None:
    try:
        return urlsplit(text)
    except ValueError:  # for example "file://[::1"
        return None


def _other_forms(text: str) -> Iterator[str]:
    """Other readings of a path that does not exist as typed. Yields only paths that exist."""
    yield re.sub(r"\\(.)", r"\1", text)  # as terminals write a path that is dropped on them
    yield text.strip(_QUOTES + "<>[]() ")  # quotation marks on one side, or brackets
    yield text.rstrip("\\/,;. ")
    if match := re.fullmatch(r"""[rRfFbBuU]?(["'])(.*)\1[,;]?""", text):  # copied from a program
        yield match[2]


def path_of(text: str) -> Path:
    """``typed_path`` as a Path, for options of the command line. Raises ValueError for an empty one."""
    if not (found := typed_path(text)):
        raise ValueError("no path is given")
    return Path(found)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False
