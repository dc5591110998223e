"""A count is written with the word that fits it, "1 image" and "2 images", by one helper: ``units.counted``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.machine.units import counted, plural

ROOT = Path(__file__).resolve().parents[1]
COUNTED = (
    "image picture pair step file caption checkpoint map row column problem archive dataset run tensor chunk "
    "comparison vote error folder time finding sample preset card line job"
)
MANY = re.compile(rf"^ (?:[a-z-]+ ){{0,2}}(?:{COUNTED.replace(' ', '|')})s\b")
AT_LEAST_TWO = {
    "engine/machine/hardware.py": "self.cards",
    "engine/evaluation/verdict.py": "facts.follows_by",
    "ui/train/several_cards.py": "count",
    "ui/train/run_facts.py": "context.hardware.cards",
}
"""Numbers that are never 1, by the module."""


NUMBERS = {"count", "total", "number", *(f"{word}s" for word in COUNTED.split())}
"""Names of values that are shown without a format and are surely numbers."""


def is_count(value: ast.FormattedValue) -> bool:
    """Whether a value in an f-string is a count: ``{n:,}``, ``{len(x)}``, ``{one.images}``.

    Constants, which are in capitals, and numbers with a point are none.
    """
    shown = ast.unparse(value.value)
    if shown.rsplit(".")[-1].lstrip("_").isupper():
        return False
    spec = ast.unparse(value.format_spec) if value.format_spec else ""
    called = shown.rsplit(".")[-1] in NUMBERS
    return ("," in spec and "f" not in spec.removeprefix("f")) or shown.startswith("len(") or (called and not spec)


def without_plural(source: str) -> Iterator[tuple[int, str]]:
    """Lines with a count and a word in the plural, whatever the count is, and the count."""
    for node in ast.walk(ast.parse(source)):
        for value, text in zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ():
            in_words = isinstance(text, ast.Constant) and MANY.match(str(text.value))
            if in_words and isinstance(value, ast.FormattedValue) and is_count(value):
                yield value.lineno, ast.unparse(value.value)


def test_every_count_has_its_plural() -> None:
    paths = [path for folder in ("engine", "ui") for path in sorted((ROOT / folder).rglob("*.py"))]
    named = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    found = [
        f"{path}:{line}: {what}"
        for path, source in named.items()
        for line, what in without_plural(source)
        if AT_LEAST_TWO.get(path) != what
    ]
    assert len(paths) > 300 and found == []


@pytest.mark.parametrize(
    "planted",
    [
        "f'{count:,} images'",
        "f'{len(rows)} new rows of it'",
        "f'{config.train.steps:,} steps of {config.images_per_step} images'",
        "f'{offer.files} files'",
    ],
)
def test_a_planted_count_is_found(planted: str) -> None:
    assert [*without_plural(planted)]


def test_names_and_constants_are_no_counts() -> None:
    assert not [
        *without_plural("f'{run.name} images, {counted(n, \"step\")} of it, {MOST:,} images, {share:.0%} images'")
    ]


def test_counts_in_words() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 2000)] == ["0 images", "1 image", "2 images", "2,000 images"]
    assert counted(1, "size has", "sizes have") == "1 size has" and counted(3, "copy", "copies") == "3 copies"
    assert [plural(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"] and plural(2, "map") == "maps"
