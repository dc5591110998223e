"""What docs/troubleshooting.md promises is held by tests: those marked ``@pytest.mark.answers("its heading")``."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from engine.workspace.paths import APP_FOLDER

TESTS = APP_FOLDER / "tests"
PAGE = APP_FOLDER / "docs" / "troubleshooting.md"


def test_every_answer_is_held_by_a_test_and_every_mark_has_its_heading(request: pytest.FixtureRequest) -> None:
    headings = re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(headings) == len(set(headings))
    collected = request.config.collected  # type: ignore[attr-defined]  (tests/conftest.py)
    marked = Counter(heading for heading, _ in collected.answers)
    assert marked.keys() <= set(headings), marked.keys() - set(headings)
    if not collected.files >= set(TESTS.rglob("test_*.py")):
        pytest.skip("only some of the tests were collected, so which headings have none is not known")
    assert set(headings) <= marked.keys(), set(headings) - marked.keys()
