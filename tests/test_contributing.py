"""CONTRIBUTING.md is true: its tree, the files and methods that it names, and the code of its worked examples."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from engine.families.base import Family
from engine.families.noise import NoiseProcess
from engine.tuning.trainable import Trainable
from tests.test_import_graph import LAYERS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    "engine/conditions/types/posterize.py",
    "engine/tuning/new_layers_only.py",
    "engine/export/prefixed_file.py",
    "ui/notes/",
    "tests/ui/notes/",
    "engine/families/layouts/NAME/",
}
"""What the worked examples would add."""


def section(title: str) -> str:
    """The text of a section, without its heading."""
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def in_tree(folder: str) -> list[str]:
    """The packages that the tree names directly in a folder, from top to bottom of the page."""
    lines = section("The tree").split(f"\n    {folder}/")[1].splitlines()[1:]
    own = [line for line in lines[: lines.index("")] if line[6:7] != " "]
    starts = [match[0] for line in own if (match := re.match(r"(?: +\w+/(?= ))+", line))]
    return [name for start in starts for name in re.findall(r"\w+", start)]


@pytest.mark.parametrize("folder", ["engine", "ui"])
def test_the_tree_has_every_package_from_bottom_to_top(folder: str) -> None:
    layers = [name.removeprefix(f"{folder}.") for name in LAYERS if name.startswith(f"{folder}.")]
    packages = [name for name in layers if (ROOT / folder / name / "__init__.py").is_file()]
    assert in_tree(folder) == packages
    assert set(packages) == {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:engine|ui|tests|docs|benchmarks|presets)/[\w./]*)`", TEXT)) - EXAMPLES
    assert len(named) > 40
    assert [path for path in sorted(named) if not (ROOT / path.replace("MODULE", "")).exists()] == []


@pytest.mark.parametrize(
    ("kind", "title"),
    [(Family, "Worked example: adding a base family"), (Trainable, "Worked example: adding a trainable")],
)
def test_all_abstract_methods_are_named(kind: type, title: str) -> None:
    named = set(re.findall(r"`(\w+)`", section(title)))
    assert kind.__abstractmethods__ - named == set()
    assert NoiseProcess.__name__ in section("Worked example: adding a base family")


def test_the_code_of_the_examples_is_python() -> None:
    blocks = re.findall(r"^( *)```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    for indent, code in blocks:
        lines = [line.removeprefix(indent) for line in code.splitlines()]
        source = "\n".join(lines)
        try:
            ast.parse(source)
        except SyntaxError:  # a field of a class, which has its indentation
            ast.parse("class Section:\n" + "\n".join(f"    {line}" for line in lines))
