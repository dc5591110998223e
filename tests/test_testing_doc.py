"""The tests that docs/testing.md names are there."""

from __future__ import annotations

import re

from engine.workspace.paths import APP_FOLDER


def test_every_test_that_is_named_is_there() -> None:
    text = (APP_FOLDER / "docs" / "testing.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 41
    for file, name in named:
        assert f"def {name}(" in (APP_FOLDER / file).read_text(encoding="utf-8"), f"{file}::{name}"
