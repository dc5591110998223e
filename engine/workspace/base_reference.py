"""A base with ingredients (LoRA and embedding files) in one line: "dreamshaper + style.safetensors:0.8 + word.pt"."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.disk.typed_path import typed_path

JOIN = " + "
"""Between a base and its ingredients, and between two of these."""


@dataclass(frozen=True)
class Ingredient:
    """A LoRA or embedding file that a base is merged with."""

    file: str
    """As typed: a path, or a name in the workspace's models folder."""
    weight: float = 1.0
    """How strongly it counts. For an embedding only 0 (not used) or anything else (used) matters."""

    def __str__(self) -> str:
        return self.file if self.weight == 1 else f"{self.file}:{self.weight:g}"


def parse_ingredients(text: str) -> tuple[Ingredient, ...]:
    """Read ingredients from text, one a line or with " + " between them: a file, and ":weight" behind it if not 1.

    Raises:
        ValueError: a weight is not finite; the text says which.
    """
    found = []
    for line in text.replace(JOIN, "\n").splitlines():
        if not line.strip():
            continue
        file, _, weight = line.strip().rpartition(":")
        try:
            value = float(weight)
        except ValueError:  # no weight behind it; the colon is that of a Windows drive
            file, value = line.strip(), 1.0
        if not file:
            file, value = line.strip(), 1.0
        if not abs(value) <= 100:  # also if it is not a number
            raise ValueError(f"the weight of {file} must be between -100 and 100, not {weight}")
        found.append(Ingredient(typed_path(file), value))
    return tuple(found)


def join(base: str, ingredients: str | Iterable[Ingredient]) -> str:
    """The reference to a base with ingredients; the base itself if none counts.

    Raises:
        ValueError: see ``parse_ingredients``.
    """
    listed = parse_ingredients(ingredients) if isinstance(ingredients, str) else ingredients
    return JOIN.join([base, *(str(one) for one in listed if one.weight)])


def split(reference: str) -> tuple[str, tuple[Ingredient, ...]]:
    """The base and the ingredients of a reference. A path that exists is never split.

    Raises:
        ValueError: see ``parse_ingredients``.
    """
    if JOIN not in reference or Path(typed_path(reference)).exists():
        return reference, ()
    base, _, rest = reference.partition(JOIN)
    return base.strip(), tuple(one for one in parse_ingredients(rest) if one.weight)


def key_of(located: str, ingredients: Sequence[tuple[str, float]]) -> str:
    """Hash of a merged base: the base, and the contents (SHA-256) and weights of its ingredients in their order.

    Args:
        located: where the base is. A base file or folder that was replaced since is another base.
    """
    path = Path(located)
    dated = [path] if path.is_file() else sorted(path.glob("*/*.safetensors"))
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in dated]
    text = "\n".join([located, *facts, *(f"{digest} {weight!r}" for digest, weight in ingredients)])
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, computed once for each state of the file."""
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
