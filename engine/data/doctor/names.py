"""Faults of the files' names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from engine.data.doctor.finding import Finding, Hit

CASE = Finding(
    "name_case", "Names that differ only in case",
    "Windows and macOS take Cat.jpg and cat.jpg for one file: a copy of the set loses one of the two, and its map or "
    "caption ends up with the other.",
    "Rename one of them and read the folder again, or leave it out.", "warning",
)  # fmt: skip
FINDINGS = (CASE,)


def clashes(keys: Iterable[str]) -> Iterator[Hit]:
    """Every key but the first of those that a system without case, or with its own Unicode form, takes for one."""
    seen: dict[str, str] = {}
    for key in keys:
        folded = unicodedata.normalize("NFC", key).casefold()
        if folded in seen:
            yield Hit(CASE.name, key, f"{seen[folded]} is there as well", seen[folded])
        else:
            seen[folded] = key
