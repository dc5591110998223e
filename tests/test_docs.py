"""docs/, README.md and CONTRIBUTING.md: their links lead somewhere, and the files that they name are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from engine.cli.main import parse_arguments
from engine.workspace.paths import APP_FOLDER

PAGES = [APP_FOLDER / "README.md", APP_FOLDER / "CONTRIBUTING.md", *sorted((APP_FOLDER / "docs").glob("*.md"))]
CODE_BLOCK = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
EXAMPLES = re.compile(r"^## Worked example.*?(?=^## (?!Worked)|\Z)", re.MULTILINE | re.DOTALL)
"""Of CONTRIBUTING.md: they name files that a reader writes."""


def text_of(page: Path) -> str:
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere, and those that are not written as links."""
    found = []
    for start in re.finditer(r"\]\(", re.sub(r"`[^`\n]*`", "", text)):
        rest = re.sub(r"`[^`\n]*`", "", text)[start.end() :]
        closed = re.match(r"([^\s()]+)\)", rest)
        if closed is None:
            found.append(f"not closed: {rest[:40]}")
            continue
        path, _, anchor = closed[1].partition("#")
        target = page.parent / path if path else page
        if "://" not in path and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(closed[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert faults(page, text_of(page)) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    page = APP_FOLDER / "README.md"
    wrong = "[a](docs/export.md or [b](docs/none.md), [c](docs/export.md#none), [d](docs/export.md#onnx), `[e](f`"
    assert faults(page, wrong) == [
        "not closed: docs/export.md or [b](docs/none.md), [c]",
        "docs/none.md",
        "docs/export.md#none",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = EXAMPLES.sub("", text_of(page))
    named = re.findall(r"`((?:engine|ui|tests|docs|benchmarks|presets)/[\w./-]+)`", text)
    if page.name == "testing.md":  # its table names them as they lie in tests/
        named = [f"tests/{path}" for path in re.findall(r"`([a-z_/]+/test_\w+\.py)`", text) if path[:6] != "tests/"]
    assert [path for path in named if not (APP_FOLDER / path).exists()] == []


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(APP_FOLDER / "docs" / "testing.md"))
    assert len(named) >= 41
    for file, name in named:
        assert f"def {name}(" in (APP_FOLDER / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_every_command_is_understood() -> None:
    """The command lines of all pages, without what a comment or a second column says of them."""
    told = re.compile(r"^ {4,}python -m engine\.cli (.*)$|`python -m engine\.cli\s([^`]*)`", re.MULTILINE)
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines = {
        re.split(r"  +|\s#|\.\.\.", line or " ".join(spanning.split()))[0] for line, spanning in told.findall(texts)
    }
    commands = [shlex.split(line) for line in sorted(lines) if not line.endswith(("--help", "train "))]
    assert len(commands) > 50
    for command in commands:
        parse_arguments(command)
