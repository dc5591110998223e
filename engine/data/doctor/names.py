"""Problems of file names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from engine.data.doctor.finding import Finding, Hit

CASE = Finding(
    "name_case",
    "Names that differ only in case",
    "Windows and macOS treat Cat.jpg and cat.jpg as the same file: a copy of the dataset loses one of them, and its "
    "map or caption ends up with the other.",
    "Rename one of them and read the folder again, or leave it out.",
    "warning",
)
FINDINGS = (CASE,)


def clashes(keys: Iterable[str]) -> Iterator[Hit]:
    """All keys, except the first, of those that a file system without case, or with its own Unicode form, confuses."""
    seen: dict[str, str] = {}
    for key in keys:
        folded = unicodedata.normalize("NFC", key).casefold()
        if folded in seen:
            yield Hit(CASE.name, key, f"{seen[folded]} also exists", seen[folded])
        else:
            seen[folded] = key
