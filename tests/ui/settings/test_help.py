"""The page of common problems is complete, uses the names of the window, and is shown where the panel links to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.workspace.paths import APP_FOLDER, Workspace
from ui.app import build_app
from ui.page.context import AppContext
from ui.page.problems import SHOW_TROUBLESHOOTING
from ui.settings import settings_tab

PAGE = settings_tab.TROUBLESHOOTING.read_text(encoding="utf-8")


def test_every_heading_has_an_answer() -> None:
    parts = re.split(r"^### (.+)$", PAGE, flags=re.MULTILINE)[1:]
    answers = {
        heading: re.split(r"^## ", body, flags=re.MULTILINE)[0].strip()
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }
    assert len(answers) > 30
    assert [heading for heading, answer in answers.items() if len(answer) < 60] == []


def test_the_readme_links_to_it() -> None:
    assert "(docs/troubleshooting.md)" in (APP_FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_uses_the_names_of_the_window(workspace: Workspace) -> None:
    """What the page prints in bold is the text of a button, a tab or a field; "A > B" is B on the tab A."""
    demo, _ = build_app(AppContext(workspace))
    shown: list[Any] = []
    for component in demo.blocks.values():
        shown += [getattr(component, name, None) for name in ("label", "value")]
        shown += [title for title, _ in getattr(component, "choices", None) or ()]
    texts = [text.lower() for text in shown if isinstance(text, str)]
    bold = {name for words in re.findall(r"\*\*(.+?)\*\*", PAGE) for name in " ".join(words.split()).split(" > ")}
    assert len(bold) > 10
    assert [name for name in sorted(bold) if not any(name.lower() in text for text in texts)] == []


def test_links_are_shown_as_text() -> None:
    shown = settings_tab.troubleshooting()
    assert "](" not in shown and "(docs/memory.md)" in shown and not shown.startswith("# ")
    assert "#troubleshooting" in SHOW_TROUBLESHOOTING


def test_a_missing_page_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings_tab, "TROUBLESHOOTING", tmp_path / "gone.md")
    assert "cannot be read" in settings_tab.troubleshooting()
